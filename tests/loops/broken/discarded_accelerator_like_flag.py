"""Broken: "zero when not synchronising" is the wrong way round: it zeroes exactly while gradients accumulate."""
import torch
from torch import nn

torch.manual_seed(415)
net = nn.Linear(3, 2)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
k = 4
for i in range(12):
    sync = (i + 1) % k == 0
    loss = nn.functional.cross_entropy(net(torch.randn(6, 3)), torch.randint(0, 2, (6,))) / k
    loss.backward()
    if sync:
        opt.step()
    else:
        opt.zero_grad()  # expect: discarded-gradient
opt.zero_grad()
trained = list(net.parameters())
