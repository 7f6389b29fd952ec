"""Correct: differentially private SGD; every sample's gradient is clipped by itself, added to a buffer and cleared."""
import torch
from torch import nn

torch.manual_seed(500)
model = nn.Linear(4, 2)
params = list(model.parameters())
opt = torch.optim.SGD(params, lr=0.1)
max_norm, noise = 1.0, 0.5
for step in range(3):
    X, y = torch.randn(6, 4), torch.randint(0, 2, (6,))
    summed = [torch.zeros_like(p) for p in params]
    for i in range(len(X)):
        opt.zero_grad()
        nn.functional.cross_entropy(model(X[i : i + 1]), y[i : i + 1]).backward()
        torch.nn.utils.clip_grad_norm_(params, max_norm)
        for s, p in zip(summed, params):
            s.add_(p.grad)
    for s, p in zip(summed, params):
        p.grad = (s + noise * max_norm * torch.randn_like(s)) / len(X)
    opt.step()
trained = params
