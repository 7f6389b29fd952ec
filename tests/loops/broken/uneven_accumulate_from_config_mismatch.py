"""Broken: two settings that should be one: windows of 3, losses divided by the config's other number, 6."""
from types import SimpleNamespace

import torch
from torch import nn

cfg = SimpleNamespace(train=SimpleNamespace(accumulate=6), optim=SimpleNamespace(every=3, lr=0.1))
torch.manual_seed(410)
model = nn.Linear(4, 2)
opt = torch.optim.SGD(model.parameters(), lr=cfg.optim.lr)
for it in range(12):
    x, y = torch.randn(5, 4), torch.randint(0, 2, (5,))
    loss = nn.functional.cross_entropy(model(x), y)
    loss = loss / cfg.train.accumulate
    loss.backward()  # expect: uneven-window-scale
    if (it + 1) % cfg.optim.every == 0:
        opt.step()
        opt.zero_grad()
trained = list(model.parameters())
