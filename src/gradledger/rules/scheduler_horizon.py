"""The scheduler was built for the number of micro-batches, but advances once per update.

`T_max=len(loader) * epochs` counts micro-batches. With K of them to an update the schedule ends at 1/K of its way: the
cosine never comes down, the warm-up takes K times as long.

Source: huggingface/accelerate#1382, huggingface/diffusers#4387, tracel-ai/burn#5695.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Backward, Schedule, Step
from gradledger.rules._books import Books, Series
from gradledger.rules._registry import Cause

CODE = "GL402"
SEVERITY = "warning"
FIX = "Build the scheduler for the number of updates: ceil(micro-batches per epoch / K) × epochs."


def check(books: Books) -> Iterator[Cause]:
    """A horizon that equals the micro-batches of the run, with far fewer updates."""
    for series in books.series:
        if series.accumulates and books.complete:
            yield from _check(series)


def _check(series: Series) -> Iterator[Cause]:
    num_updates = sum(isinstance(entry, Step) and not entry.skipped for entry in series.entries)
    num_micro_batches = len({entry.micro_batch for entry in series.entries if isinstance(entry, Backward)})
    schedulers: dict[tuple[object, ...], list[Schedule]] = {}
    for entry in series.entries:
        if isinstance(entry, Schedule) and entry.horizon:
            key = entry.construction, entry.location, entry.scheduler, entry.horizon
            schedulers.setdefault(key, []).append(entry)
    for advances in schedulers.values():
        first = advances[0]
        horizon = first.horizon or 0
        close = abs(horizon - num_micro_batches) <= max(1, num_micro_batches // 50)
        if close and len(advances) <= 0.75 * horizon and num_updates <= 0.75 * horizon:
            yield Cause(
                location=first.construction or first.location,
                message=f"{first.scheduler or 'The scheduler'} was built for {horizon} steps, the number of "
                f"micro-batches; it advanced {len(advances)} times, over {num_updates} updates.",
                update=first.update,
                account=series.account,
                count=1,
            )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
batches = torch.randn(12, 8, 4)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(batches))  # expect: scheduler-horizon
for i, x in enumerate(batches):
    loss = model(x).square().mean() / 4
    loss.backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
batches = torch.randn(12, 8, 4)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(batches) // 4)
for i, x in enumerate(batches):
    loss = model(x).square().mean() / 4
    loss.backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
"""
