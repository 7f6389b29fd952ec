"""The losses of a window are divided by their number twice.

The helper divides and the loop divides, or the loop divides and a framework does it again: a window of K holds 1/K of
the large batch's gradient. Training looks calm and is slow. The same where the gradients are divided after every
micro-batch: the first one of a window is divided K times, the last one once. And where sums are divided by all units
of the window (its tokens), and then by its micro-batches too.

In windows of two, one half may belong to the loss (half a squared error, the mean of two terms). There the rule speaks
where it cannot: for a cross entropy that was divided by two, twice.

Source: huggingface/trl PR#2615, modelscope/ms-swift PR#10116; Accelerate and Lightning divide by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradledger.ledger import Adjust, Backward, Location
from gradledger.rules._books import Books, Series, between_backwards, num_micro_batches, strip
from gradledger.rules._registry import Cause
from gradledger.rules._scaling import Scaling, is_share, scalings

CODE = "GL205"
SEVERITY = "error"
FIX = "Divide once, by the window's size: take out the other division (Accelerate and Lightning divide for you)."


def check(books: Books) -> Iterator[Cause]:
    """A line whose mean losses were divided by the size of their window at least twice, or over and over."""
    for series in books.series:
        for scaling in scalings(series):
            inside = _divisions_inside(scaling)
            if inside:
                yield _cause_inside(series, scaling, inside)
            elif _is_divided_twice(scaling):
                yield _cause(series, scaling)
        yield from _check_sums(series)


def _is_divided_twice(scaling: Scaling) -> bool:
    size = scaling.num_micro_batches
    if size == 2 and any(backward.own_half is not False for backward in scaling.backwards):
        return False
    return size > 1 and scaling.divisions_by(size) > 1


def _divisions_inside(scaling: Scaling) -> list[Adjust]:
    """Divisions of the gradients by the window's size after each of its micro-batches but, at most, the last."""
    size = scaling.num_micro_batches
    inside = between_backwards(scaling.window, Adjust)
    divisions = [each for each in inside if isinstance(each, Adjust) and each.factor and is_share(each.factor, size)]
    return divisions if size > 1 and len(divisions) >= size - 1 else []


def _cause(series: Series, scaling: Scaling) -> Cause:
    size = scaling.num_micro_batches
    return Cause(
        location=scaling.location,
        message=f"The gradient is {scaling.total:.4g} × the mean: {size} mean losses were divided by "
        f"{size} more than once.",
        update=scaling.backwards[0].update,
        account=series.account,
        evidence=(strip(scaling.window.entries, *scaling.backwards),),
    )


def _cause_inside(series: Series, scaling: Scaling, inside: list[Adjust]) -> Cause:
    size = scaling.num_micro_batches
    first, last = math.prod(scaling.factors[0]), math.prod(scaling.factors[-1])
    return Cause(
        location=inside[0].location,
        message=f"The gradients are divided by {size} after every micro-batch, what is already there each time again: "
        f"the first of {size} counts {first:.3g}, the last {last:.3g}, where each should count {1 / size:.3g}.",
        update=inside[0].update,
        account=series.account,
        evidence=(strip(scaling.window.entries, *inside),),
    )


def _check_sums(series: Series) -> Iterator[Cause]:
    for window in series.closed:
        size = num_micro_batches(window)
        if size <= 2 or any(isinstance(entry, Adjust) for entry in window.body):
            continue
        lines: dict[Location | None, list[Backward]] = {}
        for backward in window.consumed:
            lines.setdefault(backward.location, []).append(backward)
        for backwards in lines.values():
            num_units = math.fsum(backward.weight or 0.0 for backward in backwards)
            if all(_is_share_divided_again(backward, size, num_units) for backward in backwards):
                yield Cause(
                    location=backwards[0].location,
                    message=f"The gradient is {1 / size:.4g} × the mean: sums were divided by the window's "
                    f"{num_units:g} {backwards[0].unit}, and once more by its {size} micro-batches.",
                    update=backwards[0].update,
                    account=series.account,
                    evidence=(strip(window.entries, *backwards),),
                )


def _is_share_divided_again(backward: Backward, size: int, num_units: float) -> bool:
    if backward.reduction != "sum" or not backward.factors or backward.weight is None:
        return False
    if not any(is_share(factor, size) for factor in backward.factors):
        return False
    return math.isclose(math.prod(backward.factors) * size * num_units, 1.0, rel_tol=1e-3)


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i, x in enumerate(torch.randn(12, 8, 4)):
    loss = model(x).square().mean() / 4
    loss = loss / 4
    loss.backward()  # expect: double-normalized-loss
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i, x in enumerate(torch.randn(12, 8, 4)):
    loss = model(x).square().mean() / 4
    loss.backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
"""
