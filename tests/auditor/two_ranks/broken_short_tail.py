"""Broken: the tail of two micro-batches is divided by four, on both ranks."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(3, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
data = torch.randn(10, 2, 4, 3)
for i, x in enumerate(data):
    is_last = i % 4 == 3 or i + 1 == len(data)
    model.require_backward_grad_sync = is_last
    loss = model(x[dist.get_rank()]).square().mean() / 4
    loss.backward()  # expect: uneven-window-scale
    if is_last:
        optimizer.step()
        optimizer.zero_grad()
