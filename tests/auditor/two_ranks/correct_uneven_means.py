"""Correct: four micro-batches on rank 0 and two on rank 1; every mean counts ranks / all micro-batches."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(3, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
num_micro_batches = 4 if dist.get_rank() == 0 else 2
for window in torch.randn(3, num_micro_batches, 4, 3):
    total = torch.tensor(num_micro_batches)
    dist.all_reduce(total)
    for i, x in enumerate(window):
        model.require_backward_grad_sync = i == num_micro_batches - 1
        loss = model(x).square().mean() * dist.get_world_size() / total.item()
        loss.backward()
    optimizer.step()
    optimizer.zero_grad()
