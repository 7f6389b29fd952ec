"""The validation loss rises while the training loss falls.

From some update on the model learns its training samples by heart. The weights worth keeping are those of the lowest
validation loss, not the last ones.

Judged on the reported validation losses, at least 8 of them. After the lowest one there must be an upward trend
(Mann-Kendall, 1 in 100 by chance) that ends a tenth above the lowest level, with the level taken as a median of three
and the rise four times the noise between neighbours; and the training loss must have fallen meanwhile.

Source: Prechelt, Early stopping – but when? (1998); Mann, Nonparametric tests against trend (1945).
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from gradledger.rules._books import Books
from gradledger.rules._metrics import VALIDATION_NAMES, MetricSeries, metric_series
from gradledger.rules._registry import Cause
from gradledger.rules._trends import deviation_of, upward_trend

CODE = "GL802"
SEVERITY = "warning"
FIX = "Keep the weights of the lowest validation loss; stop there, or regularise: fewer parameters, dropout, more data."

MIN_EVALUATIONS = 8
MIN_EVALUATIONS_AFTER = 5
GREATEST_RISE = 0.1
LARGEST_CHANCE = 0.01
_SURE = 4.0


def check(books: Books) -> Iterator[Cause]:
    """A validation loss with a lasting rise after its minimum."""
    validation = metric_series(books.entries, "loss", VALIDATION_NAMES)
    if len(validation.values) < MIN_EVALUATIONS:
        return
    levels = _levels(validation.values)
    best = min(range(len(levels)), key=levels.__getitem__)
    after = validation.values[best:]
    lowest, last = levels[best], levels[-1]
    if len(after) <= MIN_EVALUATIONS_AFTER or lowest < 0 or last - lowest <= GREATEST_RISE * lowest:
        return
    if upward_trend(after) > LARGEST_CHANCE or last - lowest <= _SURE * deviation_of(after):
        return
    first_train, last_train = _training_levels(books, validation, best)
    if first_train is None or last_train is None or last_train >= first_train:
        return
    yield Cause(
        location=validation.location,
        message=f"Validation loss rose from {lowest:.4g} after update {validation.updates[best]} to {last:.4g} "
        f"{_growth(lowest, last)}in {len(after) - 1} evaluations, while training loss fell from "
        f"{first_train:.4g} to {last_train:.4g}.",
        update=validation.updates[best],
    )


def _growth(lowest: float, last: float) -> str:
    return f"(+{last / lowest - 1:.0%}) " if lowest else ""


def _levels(values: tuple[float, ...]) -> list[float]:
    """Medians of each value and its neighbours; at the end, of the last three."""
    inner = [median(values[max(0, i - 1) : i + 2]) for i in range(len(values) - 1)]
    return [*inner, median(values[-3:])]


def _training_levels(books: Books, validation: MetricSeries, best: int) -> tuple[float | None, float | None]:
    """The training loss around the best evaluation and at the end."""
    updates, values = _training_losses(books)
    near = max(1, len(values) // 10)
    before = [value for update, value in zip(updates, values, strict=True) if update <= validation.updates[best]]
    if not before or len(before) == len(values):
        return None, None
    return median(before[-near:]), median(values[-near:])


def _training_losses(books: Books) -> tuple[list[int], list[float]]:
    """Of every window, or as the loop reported it where backward passes show no loss."""
    pairs: list[tuple[int, float]] = []
    for series in books.series:
        for window in series.closed:
            losses = [backward.loss for backward in window.consumed if backward.loss is not None]
            if losses:
                pairs.append((window.consumed[-1].update, sum(losses) / len(losses)))
    if not pairs:
        reported = metric_series(books.entries, "loss", ("train", "training"))
        pairs = list(zip(reported.updates, reported.values, strict=True))
    return [update for update, _ in pairs], [loss for _, loss in pairs]


BAD = """
from gradledger.ledger import Ledger, Metric

ledger = Ledger()
for epoch in range(1, 21):
    ledger.append(Metric(update=epoch * 10, name="loss", value=2.0 * 0.8**epoch, split="train"))
    ledger.append(Metric(update=epoch * 10, name="loss", value=1.0 + (epoch - 6) ** 2 / 100, split="validation"))
"""

GOOD = """
from gradledger.ledger import Ledger, Metric

ledger = Ledger()
for epoch in range(1, 21):
    ledger.append(Metric(update=epoch * 10, name="loss", value=2.0 * 0.8**epoch, split="train"))
    ledger.append(Metric(update=epoch * 10, name="loss", value=0.3 + 2.0 * 0.8**epoch, split="validation"))
"""
