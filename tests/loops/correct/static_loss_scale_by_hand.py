"""Correct: gradients unscaled by hand: a static loss scale, removed once the window is full; nothing between."""
import torch
from torch import nn

torch.manual_seed(304)
LOSS_SCALE = 512.0
net = nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 3))
opt = torch.optim.SGD(net.parameters(), lr=0.05)
micro = 0
micro_per_step = 4
for batch in torch.randn(12, 6, 3):
    loss = nn.functional.mse_loss(net(batch), batch.roll(1, -1))
    (loss * LOSS_SCALE / micro_per_step).backward()
    micro += 1
    if micro == micro_per_step:
        for group in opt.param_groups:
            for p in group["params"]:
                p.grad.data.div_(LOSS_SCALE)
        opt.step()
        opt.zero_grad()
        micro = 0
trained = list(net.parameters())
