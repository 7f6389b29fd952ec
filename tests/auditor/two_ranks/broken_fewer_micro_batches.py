"""Broken: rank 1 has two micro-batches where rank 0 has four, each rank divides by its own number."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(3, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
num_micro_batches = 2 if dist.get_rank() == 1 else 4
for window in torch.randn(3, num_micro_batches, 4, 3):
    for i, x in enumerate(window):
        model.require_backward_grad_sync = i == num_micro_batches - 1
        loss = model(x).square().mean() / num_micro_batches
        loss.backward()  # expect: uneven-ranks
    optimizer.step()
    optimizer.zero_grad()
