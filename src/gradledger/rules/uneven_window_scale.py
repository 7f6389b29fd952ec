"""Losses are divided by a number that is not the number of micro-batches in their window.

Mostly it is the tail: an epoch's last window holds 2 micro-batches, is stepped, but was divided by 4, so that its
update is half as large. The same where the first window holds one micro-batch (`i % K == 0`), or where the divisor and
the boundary are two different settings. Accelerate and Lightning do this to every short last window, and Accelerate to
every micro-batch of a loop that steps without its `accumulate()`.

Source: measured in Accelerate 1.15 and Lightning 2.6; discuss.pytorch.org/t/55955.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from gradledger.findings import only_on
from gradledger.ledger import Backward, Location
from gradledger.rules._books import Books, Series, plural, strip
from gradledger.rules._registry import Cause
from gradledger.rules._scaling import Scaling, by_line, is_share

CODE = "GL202"
SEVERITY = "error"
OVER_RANKS = True
FIX = "Divide by the number of micro-batches that this window really holds (or by their samples)."

_Place = tuple[str, Location | None, int]
"""A line's share of an update: the account, the line, the update."""


def check(books: Books) -> Iterator[Cause]:
    """A window that was divided by the size of other windows, or by the size of none."""
    totals: dict[_Place, list[float]] = {}
    found: dict[_Place, list[tuple[int, Cause]]] = {}
    for series in books.series:
        for line in by_line(series):
            for scaling in line:
                totals.setdefault(_place(series, scaling), []).append(scaling.total)
            for scaling, cause in _check(series, line):
                found.setdefault(_place(series, scaling), []).append((scaling.backwards[0].rank, cause))
    for place, causes in found.items():
        num_ranks = len(totals[place])
        if not math.isclose(math.fsum(totals[place]), num_ranks, rel_tol=1e-3):  # ranks are averaged
            first = causes[0][1]
            yield replace(first, message=first.message + only_on((rank for rank, _ in causes), num_ranks))


def _place(series: Series, scaling: Scaling) -> _Place:
    return series.account, scaling.location, scaling.backwards[0].update


def _check(series: Series, line: list[Scaling]) -> Iterator[tuple[Scaling, Cause]]:
    sizes = {s.num_micro_batches for s in line if s.num_micro_batches > 1 and s.divisions_by(s.num_micro_batches)}
    for scaling in line:
        size = scaling.num_micro_batches
        if scaling.is_mean or (size > 1 and scaling.divisions_by(size)):
            continue
        if sizes:
            divisor = next((other for other in sorted(sizes) if scaling.divisions_by(other)), None)
        else:
            divisor = _whole_divisor(scaling) if size > 1 or _is_divided_by_trainer(scaling) else None
        if divisor is not None:
            yield scaling, _cause(series, scaling, divisor)


def _whole_divisor(scaling: Scaling) -> int | None:
    """The whole number above 1 that every loss of the window was divided by."""
    for factor in scaling.factors[0]:
        number = round(1 / factor) if 0 < factor < 1 else 0
        if number > 1 and is_share(factor, number) and scaling.divisions_by(number):
            return number
    return None


def _is_divided_by_trainer(scaling: Scaling) -> bool:
    """Alone in its window, a loss may have a factor of its own, but not one that a trainer gave it."""
    num_backwards = sum(isinstance(entry, Backward) for entry in scaling.window.body)
    return num_backwards == 1 and scaling.backwards[0].trainer_steps is not None


def _cause(series: Series, scaling: Scaling, divisor: int) -> Cause:
    size = plural(scaling.num_micro_batches, "micro-batch")
    return Cause(
        location=scaling.backwards[0].location,
        message=f"The gradient is {scaling.total:.4g} × the mean: this window holds {size}, but each loss was divided "
        f"by {divisor}.",
        update=scaling.backwards[0].update,
        account=series.account,
        evidence=(strip(scaling.window.entries, *scaling.backwards),),
    )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
batches = torch.randn(10, 8, 4)
for i, x in enumerate(batches):
    loss = model(x).square().mean() / 4
    loss.backward()  # expect: uneven-window-scale
    if (i + 1) % 4 == 0 or i + 1 == len(batches):
        optimizer.step()
        optimizer.zero_grad()
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
batches = torch.randn(10, 8, 4)
for start in range(0, 10, 4):
    window = batches[start : start + 4]
    for x in window:
        loss = model(x).square().mean() / len(window)
        loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""
