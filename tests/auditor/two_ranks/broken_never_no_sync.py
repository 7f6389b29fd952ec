"""Broken (speed): gradients are reduced with each of a window's four micro-batches."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(3, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i, x in enumerate(torch.randn(8, 2, 4, 3)):
    (model(x[dist.get_rank()]).square().mean() / 4).backward()  # expect: needless-all-reduce
    if i % 4 == 3:
        optimizer.step()
        optimizer.zero_grad()
