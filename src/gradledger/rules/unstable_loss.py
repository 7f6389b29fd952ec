"""The training loss does not fall, rises again, leaps about, or is no number.

A steady fall is what learning looks like. A loss that stays where the untrained model left it means that the gradients
do not reach the weights, or next to nothing of them does: a learning rate too low, parameters that no optimizer owns,
gradients zeroed before the step. A loss that rises above what it had reached, or leaps from update to update, means
that the steps are too large: a learning rate too high, losses added up without division, gradients never zeroed.

Nothing here is a fixed threshold on the loss. Noise is measured from the series itself, and four things are judged:

- *no number*: the loss of a consumed micro-batch is not finite, or beyond 1e30;
- *stands still*: the last quarter lies no lower than the first values, and a fall of 5 % is beyond the noise;
- *rises*: a lasting level exceeds the lowest one before it by six standard errors and a quarter of all that was gained;
- *leaps*: updates differ four times as much as the micro-batches within them explain, and by a tenth of the first loss.

The losses must be in the ledger: the engine keeps them, an audited program's are not read, since that would wait for
the device. Silent with fewer than 40 updates, where a loss is negative (policy gradients, densities: such losses need
not fall), where several optimizers play against each other, and where a run continues an earlier one.

Source: the founding guidance "loss jumps or does not fall"; Mann (1945) for tests by ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradledger.ledger import Backward
from gradledger.rules._books import Books
from gradledger.rules._registry import Cause
from gradledger.rules._trends import (
    LARGEST_JITTER_RATIO,
    LARGEST_JITTER_SHARE,
    Change,
    Jitter,
    jitter,
    lasting_rise,
    standstill,
)

CODE = "GL803"
SEVERITY = "warning"
FIX = (
    "Check that gradients are zeroed once per update and losses divided over the window; then lower the learning rate "
    "(or raise it, where the loss stands still)."
)

LARGEST_LOSS = 1e30
"""A loss beyond this has diverged, whether or not its type can still hold it."""


def check(books: Books) -> Iterator[Cause]:
    """The first of the four things that is wrong with an account's loss."""
    accounts = {series.account for series in books.series if series.closed}
    for series in books.series:
        windows = [window.consumed for window in series.closed]
        if any(loss is None for window in windows for loss in _losses(window)):
            continue
        losses = [[loss for loss in _losses(window) if loss is not None] for window in windows]
        message, position = _judge(windows, losses, alone=len(accounts) == 1)
        if message:
            backward = windows[position][-1]
            yield Cause(location=backward.location, message=message, update=backward.update, account=series.account)


def _losses(window: tuple[Backward, ...]) -> list[float | None]:
    return [backward.loss for backward in window]


def _judge(windows: list[tuple[Backward, ...]], losses: list[list[float]], *, alone: bool) -> tuple[str, int]:
    """What is wrong, and in which window; an empty message where nothing is."""
    for position, window in enumerate(losses):
        if not all(abs(loss) < LARGEST_LOSS for loss in window):  # which NaN is not either
            update = windows[position][0].update + 1
            return f"From update {update} on the loss is not a number, or beyond {LARGEST_LOSS:g}.", position
    if not alone or not windows or windows[0][0].update > 0 or min(map(min, losses)) < 0:
        return "", 0
    means = [_weighted_mean(window, values) for window, values in zip(windows, losses, strict=True)]
    still, rise, leaps = standstill(means), lasting_rise(means), jitter(losses)
    if rise:
        return _rise_message(rise), rise.at
    if leaps and leaps.ratio > LARGEST_JITTER_RATIO and leaps.deviation > LARGEST_JITTER_SHARE * means[0]:
        return _leap_message(leaps, means[0]), 0
    if still:
        return _still_message(still, len(means)), 0
    return "", 0


def _weighted_mean(window: tuple[Backward, ...], losses: list[float]) -> float:
    weights = [1.0 if backward.weight is None else backward.weight for backward in window]
    total = math.fsum(weights)
    return math.fsum(map(math.prod, zip(weights, losses, strict=True))) / total if total else losses[0]


def _rise_message(rise: Change) -> str:
    return (
        f"The loss rose from {rise.before:.4g} to {rise.after:.4g} (medians) around update {rise.at + 1}: "
        f"{_times(rise)} standard errors."
    )


def _still_message(still: Change, num_updates: int) -> str:
    return (
        f"The loss did not fall in {num_updates} updates: {still.before:.4g} at first, {still.after:.4g} in the last "
        f"quarter (medians, ± {still.error:.2g})."
    )


def _leap_message(leaps: Jitter, first: float) -> str:
    return (
        f"The loss leaps by {leaps.deviation:.3g} from update to update ({leaps.deviation / first:.0%} of the first "
        f"loss), {leaps.ratio:.3g} times the variance that its micro-batches explain."
    )


def _times(rise: Change) -> str:
    return "more than 100" if rise.error * 100 < rise.size else f"{rise.size / rise.error:.0f}"


BAD = """
import torch

import gradledger

torch.manual_seed(0)
model = torch.nn.Linear(8, 1)
accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=1.1))
micro_batches = [(x, x.sum(1, keepdim=True)) for x in torch.randn(256, 16, 8)]
for window in accumulator.windows(micro_batches, steps=4):
    with window:
        for inputs, targets in window:
            window.backward(torch.nn.functional.mse_loss(model(inputs), targets))
ledger = accumulator.ledger
"""

GOOD = """
import torch

import gradledger

torch.manual_seed(0)
model = torch.nn.Linear(8, 1)
accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.05))
micro_batches = [(x, x.sum(1, keepdim=True)) for x in torch.randn(256, 16, 8)]
for window in accumulator.windows(micro_batches, steps=4):
    with window:
        for inputs, targets in window:
            window.backward(torch.nn.functional.mse_loss(model(inputs), targets))
ledger = accumulator.ledger
"""
