"""The reported loss still carries the factor that was meant for the gradient.

After `loss = loss / K` the number in `loss` is K times too small. Adding it up and dividing by the micro-batches, or
reporting the last one as the update's loss, gives curves that cannot be compared between runs with unlike K.

Where the source shows what becomes of the number, the linter finds this. In the ledger of a run it shows when the
training loss is reported as a metric: it is compared with the losses of the micro-batches that it stands for.

Source: karpathy/nanoGPT#168, Lightning-AI/pytorch-lightning#2569.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator

from gradledger.ledger import Metric
from gradledger.rules._books import Books, Series
from gradledger.rules._metrics import MetricSeries, metric_series
from gradledger.rules._registry import Cause

CODE = "GL204"
SEVERITY = "warning"
FIX = "Report the loss before it is divided (or multiply it back), averaged over the window by weight."


MIN_REPORTS = 3
"""Fewer reports than this may be off by the number of steps by chance."""

_TOLERANCE = 0.05


def check(books: Books) -> Iterator[Cause]:
    """A reported number with a factor left in it."""
    yield from _scaled_when_read(books)
    yield from _off_by_the_number_of_steps(books)


def _scaled_when_read(books: Books) -> Iterator[Cause]:
    for entry in books.entries:
        if isinstance(entry, Metric) and entry.scale not in (None, 1) and _is_meant_for_windows(books, entry.scale):
            yield Cause(
                location=entry.location,
                message=f"The loss reported here is {entry.scale:.4g} × the micro-batch's loss: it was scaled for the "
                "gradient before it was read.",
                update=entry.update,
                account=entry.account,
            )


def _is_meant_for_windows(books: Books, scale: float) -> bool:
    """Is a division by a window's size in it? Any other factor is the loss's own, as the half of a squared error."""
    for series in books.series:
        if not series.accumulates:
            continue
        inverse = 1 / max(series.usual_size, 1)
        scales = {inverse}
        for backward in (backward for window in series.closed for backward in window.consumed):
            if any(math.isclose(factor, inverse, rel_tol=_TOLERANCE) for factor in backward.factors or ()):
                scales.add(backward.scale or inverse)
        if any(math.isclose(scale, one, rel_tol=_TOLERANCE) for one in scales):
            return True
    return False


def _off_by_the_number_of_steps(books: Books) -> Iterator[Cause]:
    """Every reported training loss is the mean of its micro-batches times, or over, their number in a window."""
    reported = metric_series(books.entries, "loss", ("train", "training"))
    series = [series for series in books.series if series.closed]
    if len(series) != 1 or len(reported.values) < MIN_REPORTS:
        return
    size = series[0].usual_size
    ratios = _ratios(series[0], reported)
    for factor in (1 / size, float(size)) if size > 1 else ():
        if len(ratios) >= MIN_REPORTS and all(math.isclose(r, factor, rel_tol=_TOLERANCE) for r in ratios):
            yield Cause(
                location=reported.location,
                message=f"The training loss reported here is {factor:.4g} × that of its micro-batches, in each of "
                f"{len(ratios)} reports: it is off by the {size} micro-batches of a window.",
                update=reported.updates[0],
                account=series[0].account,
                count=len(ratios),
            )


def _ratios(series: Series, reported: MetricSeries) -> list[float]:
    """Each report over the mean loss of the windows since the one before."""
    backwards = [b for window in series.closed for b in window.consumed if b.loss is not None]
    updates = [backward.update for backward in backwards]
    ratios = []
    for before, update, value in zip((0, *reported.updates), reported.updates, reported.values, strict=False):
        part = backwards[bisect_left(updates, before) : bisect_left(updates, update)]
        total = math.fsum(backward.weight or 1.0 for backward in part)
        loss = math.fsum((backward.loss or 0.0) * (backward.weight or 1.0) for backward in part)
        if loss:
            ratios.append(value * total / loss)
    return ratios


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
running = 0.0
for i, x in enumerate(torch.randn(12, 8, 4)):
    loss = model(x).square().mean() / 4
    loss.backward()
    running += loss.item()  # expect[lint]: loss-log-scale
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
average = running / 12
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
running = 0.0
for i, x in enumerate(torch.randn(12, 8, 4)):
    loss = model(x).square().mean()
    (loss / 4).backward()
    running += loss.item()
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
average = running / 12
"""
