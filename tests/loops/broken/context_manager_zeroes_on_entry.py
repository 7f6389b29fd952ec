"""Broken: the context around each micro-batch zeroes on entry and steps with every second exit."""
import contextlib
import torch
from torch import nn
torch.manual_seed(0)
net = nn.Linear(3, 1)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
@contextlib.contextmanager
def micro(i, every):
    opt.zero_grad()  # expect: discarded-gradient
    yield
    if (i + 1) % every == 0:
        opt.step()
for i, x in enumerate(torch.randn(8, 4, 3)):
    with micro(i, 2):
        (net(x).abs().mean() / 2).backward()
trained = list(net.parameters())
