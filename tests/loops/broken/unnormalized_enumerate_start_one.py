"""Broken: windows of five by `if not n % 5`, the loss is multiplied by nothing."""
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

torch.manual_seed(312)
net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 1))
o = torch.optim.SGD(net.parameters(), lr=0.01)
xs = torch.randn(20, 8, 4)
for n, x in enumerate(xs, start=1):
    y = (x.sum(1, keepdim=True) > 0).float()
    bce(net(x), y).backward()  # expect: unnormalized-loss
    if not n % 5:
        o.step()
        o.zero_grad()
trained = list(net.parameters())
