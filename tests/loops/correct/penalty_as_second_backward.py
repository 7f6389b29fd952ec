"""Correct: a weight penalty is added once per window by its own backward; data losses are divided, the penalty is not."""
import torch
from torch import nn

torch.manual_seed(405)
net = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2))
opt = torch.optim.SGD(net.parameters(), lr=0.1)
beta, K = 1e-3, 4
for window in range(4):
    for _ in range(K):
        x, y = torch.randn(5, 6), torch.randint(0, 2, (5,))
        (nn.functional.cross_entropy(net(x), y) / K).backward()
    penalty = beta * sum(p.abs().sum() for p in net.parameters())
    penalty.backward()
    opt.step()
    opt.zero_grad()
trained = list(net.parameters())
