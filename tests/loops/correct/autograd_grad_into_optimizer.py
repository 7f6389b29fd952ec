"""Correct: per-micro-batch gradients from autograd.grad, averaged in float64 and assigned to .grad for Adam."""
import torch
from torch import nn
from torch.func import functional_call

torch.manual_seed(100)
model = nn.Sequential(nn.Linear(3, 5), nn.Softplus(), nn.Linear(5, 1))
params = dict(model.named_parameters())
opt = torch.optim.Adam(params.values(), lr=1e-2)

for it in range(4):
    sums = {k: torch.zeros_like(v, dtype=torch.float64) for k, v in params.items()}
    n = 0
    for rows in (5, 3, 4):
        x = torch.randn(rows, 3)
        loss = (functional_call(model, params, (x,)) - x.prod(1, keepdim=True)).square().sum()
        grads = torch.autograd.grad(loss, list(params.values()))
        for k, g in zip(params, grads):
            sums[k] += g
        n += rows
    for k, p in params.items():
        p.grad = (sums[k] / n).to(p.dtype)
    opt.step()

trained = list(model.parameters())
