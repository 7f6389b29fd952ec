"""The losses of a window are divided by their number twice.

The helper divides and the loop divides, or the loop divides and a framework does it again: a window of K holds 1/K of
the large batch's gradient. Training looks calm and is slow.

Source: huggingface/trl PR#2615, modelscope/ms-swift PR#10116; Accelerate and Lightning divide by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.rules._books import Books, scalings, strip
from gradledger.rules._registry import Cause

CODE = "GL205"
SEVERITY = "error"
FIX = "Divide once: take out one of the two divisions (Accelerate and Lightning already divide for you)."


def check(books: Books) -> Iterator[Cause]:
    """A line whose mean losses were divided by the size of their window at least twice."""
    for series in books.series:
        for scaling in scalings(series):
            size = scaling.num_micro_batches
            # A window of two is left alone: 0.5 is also a factor that people write into a loss.
            if size > 2 and scaling.divisions_by(size) > 1:
                yield Cause(
                    location=scaling.backwards[0].location,
                    message=f"The gradient is {scaling.total:.4g} × the mean: {size} mean losses were divided by "
                    f"{size} more than once.",
                    update=scaling.backwards[0].update,
                    account=series.account,
                    evidence=(strip(scaling.window.entries, *scaling.backwards),),
                )


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
