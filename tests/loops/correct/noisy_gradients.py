"""Correct: noise is added to the accumulated gradient on purpose, just before the step."""
import torch
from torch import nn

torch.manual_seed(112)
net = nn.Sequential(nn.Linear(4, 4), nn.ELU(), nn.Linear(4, 1))
opt = torch.optim.SGD(net.parameters(), lr=0.01)
sigma, n_micro = 0.01, 3
data = iter(torch.randn(9, 6, 4))
while True:
    try:
        micro = [next(data) for _ in range(n_micro)]
    except StopIteration:
        break
    for x in micro:
        (net(x).square().mean() / n_micro).backward()
    nn.utils.clip_grad_norm_(net.parameters(), 0.1)
    with torch.no_grad():
        for p in net.parameters():
            p.grad.add_(sigma * torch.randn_like(p.grad))
    opt.step()
    net.zero_grad()
trained = list(net.parameters())
