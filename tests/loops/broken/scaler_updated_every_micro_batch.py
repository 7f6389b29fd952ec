"""Broken: the scale is set anew for each micro-batch while the window is open, so its gradients are scaled unlike (pytorch PR#36601)."""
import torch
from torch import nn

torch.manual_seed(65)
model = nn.Linear(4, 3)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
accumulation = 3

for i in range(9):
    x, y = torch.randn(6, 4), torch.randint(0, 3, (6,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(model(x), y) / accumulation
    scaler.scale(loss).backward()
    if (i + 1) % accumulation == 0:
        scaler.step(opt)
        opt.zero_grad()
    scaler.update(64.0 + i)  # expect: scaler-update-inside-window

trained = list(model.parameters())
