"""Broken (speed): no_sync must cover the forward as well; around backward alone it changes nothing (speechbrain PR#2010)."""
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
torch.manual_seed(90)
model = DistributedDataParallel(nn.Linear(5, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
grad_accumulation_factor = 3
for i in range(9):
    x, y = torch.randn(4, 5), torch.randint(0, 3, (4,))
    should_step = (i + 1) % grad_accumulation_factor == 0
    loss = nn.functional.cross_entropy(model(x), y)
    with nullcontext() if should_step else model.no_sync():
        (loss / grad_accumulation_factor).backward()  # expect: needless-all-reduce
    if should_step:
        optimizer.step()
        optimizer.zero_grad()
trained = list(model.module.parameters())
dist.destroy_process_group()
