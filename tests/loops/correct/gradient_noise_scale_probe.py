"""Correct: between micro-batches gradients are only looked at (norm of the part so far, a cosine), for the gradient noise scale."""
import torch
from torch import nn

torch.manual_seed(25)
model = nn.Linear(6, 2)
opt = torch.optim.SGD(model.parameters(), lr=0.05)
B_small, accum = 4, 4
noise, scale = [], []
for step in range(4):
    opt.zero_grad()
    small_norms, previous = [], None
    for j in range(accum):
        x = torch.randn(B_small, 6)
        loss = nn.functional.mse_loss(model(x), x[:, :2])
        (loss / accum).backward()
        with torch.no_grad():
            flat = torch.cat([p.grad.flatten() for p in model.parameters()])
            part = flat if previous is None else flat - previous
            small_norms.append((part * accum).square().sum().item())
            previous = flat.clone()
    big = sum((p.grad ** 2).sum() for p in model.parameters()).item()
    small = sum(small_norms) / accum
    scale.append((small - big) / (1 / B_small - 1 / (accum * B_small)))
    noise.append((accum * B_small * big - B_small * small) / (accum * B_small - B_small))
    opt.step()
trained = list(model.parameters())
