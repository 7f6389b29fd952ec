"""Broken: meant as private SGD, but nothing is cleared between samples, so each clip shrinks the sum so far."""
import torch
from torch import nn

torch.manual_seed(515)
net = nn.Linear(4, 2)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(3):
    X, y = torch.randn(5, 4), torch.randint(0, 2, (5,))
    opt.zero_grad()
    for x, t in zip(X.split(1), y.split(1)):
        (nn.functional.cross_entropy(net(x), t) / len(X)).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.2)  # expect: clip-inside-window
    opt.step()
trained = list(net.parameters())
