"""A step consumes gradients that were never reduced over the ranks.

`no_sync()` also around the last micro-batch of a window leaves each rank with its own gradient; the replicas drift
apart, each trains alone, and only rank 0 is saved.

Source: pytorch PR#124193, DeepSpeed PR#7985 (3.8 % apart), huggingface/accelerate#3679.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Backward, Sync
from gradledger.rules._books import Books, strip
from gradledger.rules._registry import Cause

CODE = "GL502"
SEVERITY = "error"
FIX = "Let the last micro-batch of every window, the short tail too, run outside no_sync()."


def check(books: Books) -> Iterator[Cause]:
    """A window whose last backward did not reduce."""
    for series in books.series:
        for window in series.closed:
            step = window.step
            last_sync = next(
                (e for e in reversed(window.body) if isinstance(e, Sync | Backward)),
                None,
            )
            if step and isinstance(last_sync, Backward) and last_sync.synced is False:
                yield Cause(
                    location=step.location,
                    message="The last backward of this window did not reduce its gradients over the ranks: each rank "
                    "steps on its own.",
                    update=step.update,
                    account=series.account,
                    evidence=(strip(window.entries, step),),
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
    with model.no_sync():
        loss = model(x).square().mean() / 4
        loss.backward()
    if (i + 1) % 4 == 0:
        optimizer.step()  # expect: unsynced-step
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
