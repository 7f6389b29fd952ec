"""Correct: unit-wise adaptive gradient clipping written by hand, after the window is full."""
import torch
from torch import nn


def adaptive_clip_(parameters, clip_factor=0.01, eps=1e-3):
    for p in parameters:
        if p.grad is None:
            continue
        limit = p.detach().norm().clamp(min=eps) * clip_factor
        norm = p.grad.detach().norm()
        p.grad.detach().copy_(torch.where(norm > limit, p.grad * (limit / norm), p.grad))


torch.manual_seed(511)
model = nn.Sequential(nn.Linear(4, 4), nn.SELU(), nn.Linear(4, 1))
opt = torch.optim.RMSprop(model.parameters(), lr=1e-3)
for window in torch.randn(4, 3, 6, 4):
    opt.zero_grad()
    for x in window:
        (nn.functional.huber_loss(model(x), x.mean(1, keepdim=True)) / 3).backward()
    adaptive_clip_(model.parameters())
    opt.step()
trained = list(model.parameters())
