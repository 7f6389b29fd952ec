"""Broken: unscale_ is there, but one line too low: after the clipping (pytorch/examples#1196's kind)."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class AmpTrainer:
    def __init__(self, net, lr, accum):
        self.net, self.accum = net, accum
        self.opt = torch.optim.AdamW(net.parameters(), lr=lr)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=512.0)

    def _finish(self):
        nn.utils.clip_grad_value_(self.net.parameters(), 0.5)  # expect: clip-scaled-gradient
        self.scaler.unscale_(self.opt)
        self.scaler.step(self.opt)
        self.scaler.update()
        self.opt.zero_grad(set_to_none=True)

    def run(self, loader):
        for i, (x, y) in enumerate(loader):
            with torch.amp.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(self.net(x), y) / self.accum
            self.scaler.scale(loss).backward()
            if (i + 1) % self.accum == 0:
                self._finish()


torch.manual_seed(62)
t = AmpTrainer(nn.Linear(9, 4), 1e-2, accum=2)
t.run(DataLoader(TensorDataset(torch.randn(48, 9), torch.randint(0, 4, (48,))), batch_size=6))
trained = list(t.net.parameters())
