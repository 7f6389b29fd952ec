"""Broken: warm-up and decay tick inside training_step, once a micro-batch; the update happens elsewhere (diffusers#4387's kind)."""
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


class Module:
    def __init__(self, warmup):
        self.net = nn.Sequential(nn.Linear(5, 5), nn.GELU(), nn.Linear(5, 5))
        self.opt = torch.optim.AdamW(self.net.parameters(), lr=1e-2)
        self.lr_sched = LambdaLR(self.opt, lambda s: min(1.0, (s + 1) / warmup))

    def training_step(self, x, n):
        loss = nn.functional.mse_loss(self.net(x), x)
        (loss / n).backward()
        self.lr_sched.step()  # expect: scheduler-per-micro-batch
        return loss.detach()

    def apply(self):
        self.opt.step()
        self.opt.zero_grad(set_to_none=True)


torch.manual_seed(74)
m = Module(warmup=4)
for window in torch.randn(4, 3, 6, 5):
    for x in window:
        m.training_step(x, len(window))
    m.apply()
trained = list(m.net.parameters())
