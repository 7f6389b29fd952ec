"""Gradients are zeroed inside a window, before any step used them.

Where `zero_grad()` runs with every micro-batch but `step()` only with every K-th, each window trains on its last
micro-batch alone: the work of the others is thrown away. The loop looks as if it accumulated, takes as long, and the
loss falls, as it does with small batches.

Zeroing that throws gradients away on purpose is left alone: closures that recompute them, a non-finite loss, a
gradient that was read and is put back by hand, another optimizer's gradients.

Source: huggingface/accelerate#616 (in its documentation), bytetriper/RAE#67, pytorch/torchtitan PR#3575.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Adjust, Backward, Entry, EpochEnd, EpochStart, Window, Zero
from gradledger.rules._books import Books, Series, plural, strip
from gradledger.rules._registry import Cause

CODE = "GL102"
SEVERITY = "error"
FIX = "Zero once per update: move the zeroing next to the step, under the same condition."


def check(books: Books) -> Iterator[Cause]:
    """A zeroing that takes gradients away in most windows."""
    for series in books.series:
        yield from _check(books, series)


def _check(books: Books, series: Series) -> Iterator[Cause]:
    closed = [window for window in series.windows if window.step and window.backwards]
    causes = []
    num_struck = 0
    for window in closed:
        found = list(_losses(books, window))
        num_struck += bool(found)
        causes += [_cause(series, window, zero, lost) for zero, lost in found]
    if 2 * num_struck >= len(closed):  # now and then is a guard that gives up a window, not a bug
        yield from causes


def _losses(books: Books, window: Window) -> Iterator[tuple[Zero, list[Backward]]]:
    """Each zeroing in the window with the backward passes that it threw away."""
    consumed_lines = {backward.location for backward in window.consumed}
    held: list[Backward] = []
    for position, entry in enumerate(window.body):
        if isinstance(entry, Backward):
            if entry.finite is not False and not books.used_by_others(entry):
                held.append(entry)
        elif isinstance(entry, EpochStart | EpochEnd):
            held = []  # an epoch's tail: see dropped-tail
        elif isinstance(entry, Zero):
            lost = [b for b in held if not consumed_lines or b.location in consumed_lines]
            if lost and not entry.void and not _is_written_back(window.body[position + 1 :]):
                yield entry, lost
            held = []


def _is_written_back(rest: tuple[Entry, ...]) -> bool:
    """The gradient is set by hand before anything is added to it: it had been read before the zeroing."""
    for entry in rest:
        if isinstance(entry, Backward):
            continue
        if isinstance(entry, Adjust):
            return entry.factor is None
    return False


def _cause(series: Series, window: Window, zero: Zero, lost: list[Backward]) -> Cause:
    total = len({backward.micro_batch for backward in window.backwards})
    kept = len({backward.micro_batch for backward in window.consumed})
    return Cause(
        location=zero.location,
        message=f"Zeroing inside the window throws away {plural(len(lost), 'backward pass')} before a step used "
        f"{'it' if len(lost) == 1 else 'them'}: of {plural(total, 'micro-batch')} the update sees {kept}.",
        update=zero.update,
        account=series.account,
        evidence=(strip(window.entries, zero),),
    )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i, x in enumerate(torch.randn(12, 8, 4)):
    optimizer.zero_grad()  # expect: discarded-gradient
    loss = model(x).square().mean() / 4
    loss.backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
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
