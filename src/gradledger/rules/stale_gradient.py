"""A step consumes gradients that an earlier step already consumed.

`backward()` adds to `.grad`; nothing but zeroing takes the old gradient away. Where the zeroing is missing (or stands
outside the loop, or clears another optimizer), every step repeats all earlier gradients: the update is the running sum
of the whole training so far. Nothing crashes and the loss may even fall for a while, faster and then worse.

Zeroing in any form counts: `optimizer.zero_grad()`, `model.zero_grad()`, `p.grad = None`, `p.grad.zero_()`.

Source: a warning for this was asked for in pytorch/pytorch#47175; DeepSpeed#7837, wenet-e2e/wekws#72.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Adjust, Backward, Entry, Step, Zero
from gradledger.rules._books import Books, Series, plural, strip
from gradledger.rules._registry import Cause

CODE = "GL101"
SEVERITY = "error"
FIX = "Zero the gradients once per update, right after this step (or before the window's first backward)."


def check(books: Books) -> Iterator[Cause]:
    """A step with gradient left over from the step before."""
    for series in books.series:
        yield from _check(series)


def _check(series: Series) -> Iterator[Cause]:
    used = False  # what .grad holds was consumed by a step and not zeroed since
    fresh = 0  # backward passes since the last step or zeroing
    since_zero: list[Entry] = []
    for entry in series.entries:
        since_zero.append(entry)
        if isinstance(entry, Backward):
            fresh += 1
        elif isinstance(entry, Zero) and not entry.partial:
            used, fresh, since_zero = False, 0, []
        elif isinstance(entry, Adjust) and not fresh:
            used = False  # the left-over gradient was handled by hand, as a momentum for instance
        elif isinstance(entry, Step) and not entry.skipped:
            if used:
                yield _cause(series, entry, since_zero)
            used = used or fresh > 0
            fresh = 0


def _cause(series: Series, step: Step, since_zero: list[Entry]) -> Cause:
    num_steps = sum(isinstance(entry, Step) for entry in since_zero)
    held = sum(isinstance(entry, Backward) for entry in since_zero)
    return Cause(
        location=step.location,
        message=f"This step consumes gradients that the step before it already consumed: nothing zeroed them. "
        f"Its gradient is the sum of {plural(held, 'backward pass')} from {plural(num_steps, 'window')}.",
        update=step.update,
        account=series.account,
        evidence=(strip(since_zero, step),),
    )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.randn(6, 8, 4):
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()  # expect: stale-gradient
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.randn(6, 8, 4):
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""
