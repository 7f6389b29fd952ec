"""Micro-batches at the end of an epoch (or of the run) that no step ever consumes.

With 63 micro-batches and a step after every 4th, the last 3 of each epoch are computed and then zeroed away, or left
when the program ends. No number shows it: those samples just never train the model, and a loader that does not shuffle
drops the same ones every time. An epoch shorter than the window trains nothing at all.

Source: Lightning-AI/pytorch-lightning#19987 and #21808, huggingface/transformers#22082.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Backward, EpochEnd, EpochStart, Step, Zero
from gradledger.rules._books import Books, Series, plural, strip
from gradledger.rules._registry import Cause

CODE = "GL103"
SEVERITY = "warning"
FIX = (
    "Step at the end of the epoch too, dividing by the micro-batches that the short window really holds; or let "
    "the tail carry on in a window that still ends after exactly K."
)


def check(books: Books) -> Iterator[Cause]:
    """Gradients zeroed at an epoch's border, or never consumed at the end."""
    for series in books.series:
        if series.accumulates or series.last_step is None:
            yield from _check(books, series)


def _check(books: Books, series: Series) -> Iterator[Cause]:
    held: list[Backward] = []
    crossed = False  # an epoch border lies between what is held and now
    step: Step | None = None
    for position, entry in enumerate(series.entries):
        if isinstance(entry, Backward):
            if _is_training(books, series, entry):
                held.append(entry)
            crossed = False
        elif isinstance(entry, EpochStart | EpochEnd):
            crossed = bool(held)
        elif isinstance(entry, Step):
            held, step = [], entry
        elif isinstance(entry, Zero) and not entry.partial:
            if held and crossed and not entry.void:
                yield _cause(series, held, step, position, "zeroed away when the next epoch begins")
            held = []
    if held and books.complete:
        yield _cause(series, held, step, len(series.entries), "left when the program ends")


def _is_training(books: Books, series: Series, backward: Backward) -> bool:
    """Not another optimizer's gradient, and (where steps are known) from a line whose gradients steps consume."""
    lines = series.training_lines
    return not books.used_by_others(backward) and (not lines or backward.location in lines)


def _cause(series: Series, held: list[Backward], step: Step | None, end: int, fate: str) -> Cause:
    number = plural(len({backward.micro_batch for backward in held}), "micro-batch")
    place = step or series.last_step
    start = max(0, end - 16)
    return Cause(
        location=place.location if place else held[-1].location,
        message=f"{number} after the last step: no step ever consumes them, they are {fate}."
        if place
        else f"{number} and not one step in the whole run: the gradients are {fate}.",
        update=held[-1].update,
        account=series.account,
        evidence=(strip(series.entries[start:end], *held),),
    )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(2):
    optimizer.zero_grad()
    for i, x in enumerate(torch.randn(10, 8, 4)):
        loss = model(x).square().mean() / 4
        loss.backward()
        if (i + 1) % 4 == 0:
            optimizer.step()  # expect: dropped-tail
            optimizer.zero_grad()
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(2):
    batches = torch.randn(10, 8, 4)
    for start in range(0, 10, 4):
        window = batches[start : start + 4]
        for x in window:
            loss = model(x).square().mean() / len(window)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
"""
