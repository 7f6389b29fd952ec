"""Gradients are reduced over ranks with every micro-batch of a window.

Only the last backward of a window needs to reduce; DDP's `no_sync()` leaves it out for the others. It must be entered
before the *forward*: around the backward alone it does nothing. Measured elsewhere: 2 s per update became 0.9 s over
several nodes.

Source: huggingface/accelerate PR#1153, timm PR#1659, pytorch/pytorch#69031.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.rules._books import Books, num_micro_batches, strip
from gradledger.rules._registry import Cause

CODE = "GL501"
SEVERITY = "warning"
FIX = (
    "Run forward and backward of all but the last micro-batch under no_sync() (FSDP2: "
    "set_requires_gradient_sync(False))."
)


def check(books: Books) -> Iterator[Cause]:
    """A window of several micro-batches that all reduced."""
    for series in books.series:
        for window in series.closed:
            synced = [backward for backward in window.consumed if backward.synced]
            size = num_micro_batches(window)
            if size > 1 and len({backward.micro_batch for backward in synced}) == size:
                yield Cause(
                    location=synced[0].location,
                    message=f"Gradients are reduced over ranks {len(synced)} times in a window of {size} "
                    "micro-batches; once is enough.",
                    update=synced[0].update,
                    account=series.account,
                    evidence=(strip(window.entries, *synced),),
                )


BAD = """
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.manual_seed(0)
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
model = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i, x in enumerate(torch.randn(12, 8, 4)):
    loss = model(x).square().mean() / 4
    loss.backward()  # expect: needless-all-reduce
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
dist.destroy_process_group()
"""

GOOD = """
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.manual_seed(0)
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
model = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i, x in enumerate(torch.randn(12, 8, 4)):
    last = (i + 1) % 4 == 0
    with nullcontext() if last else model.no_sync():
        loss = model(x).square().mean() / 4
        loss.backward()
    if last:
        optimizer.step()
        optimizer.zero_grad()
dist.destroy_process_group()
"""
