"""The gradient scaler is updated or unscaled between two backward passes of one window.

Its factor must stay the same within a window: after `update()` the later micro-batches may be scaled by another factor
than the earlier ones, and after `unscale_()` they are added scaled onto an unscaled sum. Which micro-batches count, and
how much, then depends on overflows.

Source: pytorch PR#36601, huggingface/accelerate#641.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import ScalerUpdate, Unscale
from gradledger.rules._books import Books, between_backwards, strip
from gradledger.rules._registry import Cause

CODE = "GL304"
SEVERITY = "error"
FIX = "Call unscale_, step and update once per window, after its last backward."


def check(books: Books) -> Iterator[Cause]:
    """An update or unscaling of the scaler with backward passes of the same window around it."""
    for series in books.series:
        for window in series.windows:
            for entry in between_backwards(window, ScalerUpdate, Unscale):
                own = [b for b in window.backwards if b.scaled_by_scaler and not books.used_by_others(b)]
                if not own or len({backward.micro_batch for backward in own}) < 2:
                    continue
                name = "update()" if isinstance(entry, ScalerUpdate) else "unscale_()"
                yield Cause(
                    location=entry.location,
                    message=f"The gradient scaler's {name} runs inside a window: its micro-batches are not all scaled "
                    "by the same factor.",
                    update=entry.update,
                    account=series.account,
                    evidence=(strip(window.entries, entry),),
                )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
for i, x in enumerate(torch.randn(12, 8, 4)):
    scaler.scale(model(x).square().mean() / 4).backward()
    scaler.unscale_(optimizer)  # expect: scaler-update-inside-window
    if (i + 1) % 4 == 0:
        scaler.step(optimizer)
        optimizer.zero_grad()
    scaler.update()  # expect: scaler-update-inside-window
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
for i, x in enumerate(torch.randn(12, 8, 4)):
    scaler.scale(model(x).square().mean() / 4).backward()
    if (i + 1) % 4 == 0:
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
"""
