"""Broken (speed): no_sync around backward only, where the forward has already settled that gradients are reduced."""

from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(3, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i, x in enumerate(torch.randn(8, 2, 4, 3)):
    is_last = i % 4 == 3
    loss = model(x[dist.get_rank()]).square().mean() / 4
    with nullcontext() if is_last else model.no_sync():
        loss.backward()  # expect: needless-all-reduce
    if is_last:
        optimizer.step()
        optimizer.zero_grad()
