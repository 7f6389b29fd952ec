"""Broken: the whole window is under no_sync, the ranks drift apart."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(3, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for window in torch.randn(3, 4, 2, 4, 3):
    with model.no_sync():
        for x in window:
            (model(x[dist.get_rank()]).square().mean() / 4).backward()
    optimizer.step()  # expect: unsynced-step
    optimizer.zero_grad()
