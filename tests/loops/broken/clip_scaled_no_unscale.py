"""Broken: clipped with the scaler's factor still in: with 1024 in it every norm is above the bound."""
import torch
from torch import nn

torch.manual_seed(61)
model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
for step in range(6):
    x = torch.randn(8, 6)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = nn.functional.mse_loss(model(x), x[:, :1])
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)  # expect: clip-scaled-gradient
    scaler.step(optimizer)
    scaler.update()
trained = list(model.parameters())
