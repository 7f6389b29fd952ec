"""Correct: gradients are added in float64 buffers of our own; .grad is cleared after each micro-batch and filled back at the end."""
import torch
from torch import nn

torch.manual_seed(130)
model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1))
params = list(model.parameters())
opt = torch.optim.SGD(params, lr=0.1)
n = 4
for update in range(3):
    buffers = [torch.zeros_like(p, dtype=torch.float64) for p in params]
    for _ in range(n):
        x = torch.randn(8, 5)
        nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)).backward()
        for buf, p in zip(buffers, params):
            buf += p.grad
            p.grad = None
    for buf, p in zip(buffers, params):
        p.grad = (buf / n).to(p.dtype)
    opt.step()
    opt.zero_grad()
trained = params
