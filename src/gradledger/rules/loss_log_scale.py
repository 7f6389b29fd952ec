"""The reported loss still carries the factor that was meant for the gradient.

After `loss = loss / K` the number in `loss` is K times too small. Adding it up and dividing by the micro-batches, or
reporting the last one as the update's loss, gives curves that cannot be compared between runs with unlike K.

Only source text shows what becomes of the number, so the linter finds this; a run does not show it.

Source: karpathy/nanoGPT#168, Lightning-AI/pytorch-lightning#2569.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Metric
from gradledger.rules._books import Books
from gradledger.rules._registry import Cause

CODE = "GL204"
SEVERITY = "warning"
FIX = "Report the loss before it is divided (or multiply it back), averaged over the window by weight."


def check(books: Books) -> Iterator[Cause]:
    """A reported number with a factor left in it."""
    for entry in books.entries:
        if isinstance(entry, Metric) and entry.scale is not None and entry.scale != 1:
            yield Cause(
                location=entry.location,
                message=f"The loss reported here is {entry.scale:.4g} × the micro-batch's loss: it was scaled for the "
                "gradient before it was read.",
                update=entry.update,
                account=entry.account,
            )


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
