"""A script: two ranks train, and rank 1 fails where the others are already waiting for its gradients."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradledger

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", rank=rank, world_size=2, init_method=f"file://{store}")
model = DistributedDataParallel(nn.Linear(4, 1))
accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))
for window in accumulator.windows([torch.randn(3, 4) for _ in range(8)], steps=2):
    with window:
        for position, inputs in enumerate(window):
            loss = model(inputs).mean()
            if rank == 1 and accumulator.num_updates == 2 and position == 1:
                raise ValueError("disk on fire")
            window.backward(loss)
