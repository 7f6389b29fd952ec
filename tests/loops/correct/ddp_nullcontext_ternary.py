"""Correct: `model.no_sync() if accumulating else nullcontext()`, under torchrun or alone."""
import os
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

if "LOCAL_RANK" in os.environ:
    dist.init_process_group("gloo")
else:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

torch.manual_seed(126)
dataset = TensorDataset(torch.randn(48, 5), torch.randint(0, 3, (48,)))
loader = DataLoader(dataset, batch_size=4, sampler=DistributedSampler(dataset, shuffle=False))
model = DDP(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
accumulation_steps = 3

for step, (x, y) in enumerate(loader):
    accumulating = (step + 1) % accumulation_steps != 0
    with model.no_sync() if accumulating else nullcontext():
        loss = nn.functional.cross_entropy(model(x), y)
        (loss / accumulation_steps).backward()
    if not accumulating:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

trained = list(model.module.parameters())
dist.destroy_process_group()
