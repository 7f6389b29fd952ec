"""Correct: a micro-batch whose loss is not finite is left out, and the window divides by what remains."""
import math

import torch
from torch import nn

torch.manual_seed(110)
model = nn.Linear(3, 2)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
windows = torch.randn(4, 3, 5, 3)
windows[1, 2] = float("inf")

for window in windows:
    opt.zero_grad()
    used = 0
    for x in window:
        loss = nn.functional.mse_loss(model(x), x[:, :2])
        if not math.isfinite(loss.item()):
            continue
        loss.backward()
        used += 1
    for p in model.parameters():
        p.grad.mul_(1.0 / used)
    opt.step()
trained = list(model.parameters())
