"""Broken: only the first rank zeroes."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(3, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.randn(4, 2, 4, 3):
    model(x[dist.get_rank()]).square().mean().backward()
    optimizer.step()  # expect: stale-gradient
    if dist.get_rank() == 0:
        optimizer.zero_grad()
