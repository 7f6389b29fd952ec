"""Gradients are zeroed twice with nothing in between.

Harmless, but the second call walks over all parameters for nothing, and two places that zero are two places to get
wrong when the loop starts to accumulate. One line that zeroes again, such as a framework's, is one place.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Adjust, Backward, Clip, Step, Unscale, Zero
from gradledger.rules._books import Books, strip
from gradledger.rules._registry import Cause

CODE = "GL108"
SEVERITY = "info"
FIX = "Keep one of the two."


def check(books: Books) -> Iterator[Cause]:
    """A zeroing right after a zeroing."""
    for series in books.series:
        last: Zero | None = None
        for position, entry in enumerate(series.entries):
            if isinstance(entry, Zero):
                same_line = last is not None and last.location is not None and last.location == entry.location
                if last is not None and not same_line and not entry.void and not entry.partial:
                    yield Cause(
                        location=entry.location,
                        message="The gradients were zeroed a moment ago"
                        f"{f' ({last.location})' if last.location else ''}, and nothing was added since.",
                        update=entry.update,
                        account=series.account,
                        evidence=(strip(series.entries[max(0, position - 6) : position + 1], entry),),
                    )
                last = None if entry.void or entry.partial else entry
            elif isinstance(entry, Backward | Adjust | Step | Clip | Unscale):
                last = None


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.randn(6, 8, 4):
    optimizer.zero_grad()
    model.zero_grad()  # expect: redundant-zero
    model(x).square().mean().backward()
    optimizer.step()
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.randn(6, 8, 4):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
"""
