"""Broken: a hand-written likelihood takes the log of a probability that underflows; the step uses the infinite loss's gradient."""
import torch
from torch import nn


def nll(p, target):
    return -torch.log(p.gather(1, target[:, None])).mean()


torch.manual_seed(72)
net = nn.Linear(3, 2)
opt = torch.optim.SGD(net.parameters(), lr=0.1)


def step(x, t):
    opt.zero_grad()
    loss = nll(torch.softmax(net(x), dim=1), t)
    loss.backward()  # expect[audit]: non-finite-gradient
    opt.step()


for k in range(4):
    x = torch.randn(5, 3) * (1.0 if k < 2 else 1e4)
    step(x, torch.tensor([0, 1, 0, 1, 0]))
trained = list(net.parameters())
