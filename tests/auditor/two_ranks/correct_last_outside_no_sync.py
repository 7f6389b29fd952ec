"""Correct: all but the last micro-batch in one block of no_sync, then the last one; a short tail by its own count."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(3, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for window in torch.randn(10, 2, 4, 3).split(4):
    *others, last = window
    with model.no_sync():
        for x in others:
            (model(x[dist.get_rank()]).square().mean() / len(window)).backward()
    (model(last[dist.get_rank()]).square().mean() / len(window)).backward()
    optimizer.step()
    optimizer.zero_grad()
