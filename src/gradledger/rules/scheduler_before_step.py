"""The scheduler steps before the optimizer.

The first value of the schedule is never used and every update runs with the rate meant for the next one. PyTorch
changed this order in 1.1; it warns once, at the first call, where many logs hide it.

Source: the PyTorch documentation, "How to adjust learning rate".
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Backward, Schedule, Window
from gradledger.rules._books import Books, Series, between_backwards, strip
from gradledger.rules._registry import Cause

CODE = "GL403"
SEVERITY = "warning"
FIX = "Call optimizer.step() first, then scheduler.step()."


def check(books: Books) -> Iterator[Cause]:
    """A scheduler that advances before the first step, or between a window's last backward and its step."""
    for series in books.series:
        if not any(between_backwards(window, Schedule) for window in series.closed):
            yield from _check(series)


def _check(series: Series) -> Iterator[Cause]:
    closed = [window for window in series.windows if window.step]
    early = [(window, entry) for window in closed if (entry := _before_step(window))]
    if 2 * len(early) < len(closed):  # now and then, as a schedule per epoch in a window that carries over
        early = []
    first = closed[0] if closed else None
    if first and not early:
        lead = next((entry for entry in first.lead if isinstance(entry, Schedule)), None)
        early = [(first, lead)] if lead else []
    for window, entry in early:
        yield Cause(
            location=entry.location,
            message="The scheduler advances before the step: this update already runs with the next rate.",
            update=entry.update,
            account=series.account,
            evidence=(strip(window.entries, entry),),
        )


def _before_step(window: Window) -> Schedule | None:
    for entry in reversed(window.body):
        if isinstance(entry, Schedule):
            return entry
        if isinstance(entry, Backward):
            return None
    return None


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
for x in torch.randn(6, 8, 4):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    scheduler.step()  # expect: scheduler-before-step
    optimizer.step()
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
for x in torch.randn(6, 8, 4):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
    scheduler.step()
"""
