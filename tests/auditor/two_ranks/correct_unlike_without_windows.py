"""Correct, as far as accumulation goes: no windows, and each rank's mean over as many samples as it has."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(3, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.randn(4, 8 - 4 * dist.get_rank(), 3):
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
