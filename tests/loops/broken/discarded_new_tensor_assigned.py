"""Broken: before each backward every .grad is replaced by a fresh tensor of zeros, so a window holds only its last micro-batch."""
import torch
from torch import nn

torch.manual_seed(144)
model = nn.Bilinear(3, 3, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
K = 5
pairs = torch.randn(10, 2, 4, 3)
for i, (a, b) in enumerate(pairs):
    loss = (model(a, b).squeeze(-1) - (a * b).sum(-1)).pow(2).mean() / K
    for p in model.parameters():
        if p.grad is not None:
            p.grad = torch.zeros_like(p)  # expect: discarded-gradient
    loss.backward()
    if i % K == K - 1:
        opt.step()
trained = list(model.parameters())
