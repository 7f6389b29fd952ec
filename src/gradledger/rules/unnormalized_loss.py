"""Several mean losses are added up and never divided by their number.

Each `backward()` adds a whole mean gradient, so a window of K micro-batches holds K times the gradient of the large
batch: the learning rate is K times what the code says. Adam and clipping hide the factor for most of the run, and the
logged loss looks right.

Source: huggingface/trl#2617 (about 18 trainers), huggingface/transformers PR#35438, paiml/aprender PR#2123.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.rules._books import Books, strip
from gradledger.rules._registry import Cause
from gradledger.rules._scaling import scalings

CODE = "GL201"
SEVERITY = "error"
FIX = (
    "Divide each loss by the number of micro-batches in the window before backward(), or the gradients once "
    "before the step."
)


def check(books: Books) -> Iterator[Cause]:
    """A line whose mean losses all count with 1 in a window of several micro-batches."""
    for series in books.series:
        for scaling in scalings(series):
            size = scaling.num_micro_batches
            if size > 1 and all(factor == 1 for factors in scaling.factors for factor in factors):
                yield Cause(
                    location=scaling.backwards[0].location,
                    message=f"The gradient is {scaling.total:.2f} × the mean: {size} mean losses were added and "
                    "never divided.",
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
    loss = model(x).square().mean()
    loss.backward()  # expect: unnormalized-loss
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
