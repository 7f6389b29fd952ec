"""A step consumed the gradient of a loss that was not finite.

One micro-batch with a NaN (no tokens left after masking, a division by zero, an overflow) makes the whole window's
gradient NaN, the step writes it into the weights, and from then on nothing trains. It is only seen where the loss
can be read without waiting for a device.

Source: NVIDIA-NeMo/Automodel#3796, allenai/OLMo-core PR#657.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.rules._books import Books, strip
from gradledger.rules._registry import Cause

CODE = "GL307"
SEVERITY = "error"
FIX = "Leave such a micro-batch (and its weight) out, or void the window; find where the loss becomes non-finite."


def check(books: Books) -> Iterator[Cause]:
    """A window with a non-finite loss in it that was stepped on."""
    for series in books.series:
        for window in series.closed:
            poisoned = [b for b in window.consumed if b.finite is False and not b.scaled_by_scaler]
            if poisoned:
                yield Cause(
                    location=poisoned[0].location,
                    message=f"The loss of micro-batch {poisoned[0].micro_batch} was not finite, and a step consumed "
                    "its gradient.",
                    update=poisoned[0].update,
                    account=series.account,
                    evidence=(strip(window.entries, *poisoned),),
                )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.randn(6, 8, 4):
    loss = (model(x).sum() - model(x).sum()).sqrt().log()
    loss.backward()  # expect[audit]: non-finite-gradient
    optimizer.step()
    optimizer.zero_grad()
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.randn(6, 8, 4):
    loss = (model(x).square().sum() + 1).sqrt().log()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""
