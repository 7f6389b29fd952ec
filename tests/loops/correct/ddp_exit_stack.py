"""Correct: several DDP models of one step; an ExitStack enters each one's no_sync until the window's end."""
import contextlib

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
torch.manual_seed(125)
encoder, decoder = (DistributedDataParallel(m) for m in (nn.Linear(6, 3), nn.Linear(3, 6)))
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-2)
steps = 3
for i, x in enumerate(torch.randn(9, 4, 6)):
    last = i % steps == steps - 1
    with contextlib.ExitStack() as stack:
        if not last:
            for m in (encoder, decoder):
                stack.enter_context(m.no_sync())
        loss = nn.functional.mse_loss(decoder(torch.relu(encoder(x))), x) / steps
        loss.backward()
    if last:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
trained = [*encoder.module.parameters(), *decoder.module.parameters()]
dist.destroy_process_group()
