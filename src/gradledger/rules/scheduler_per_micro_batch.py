"""The learning-rate scheduler steps with every micro-batch instead of every update.

Warm-up is over K times too soon and the rate has decayed to its end after 1/K of the training, while the loop still
runs. The curve of the rate looks right, only against the wrong axis.

Source: huggingface/accelerate#963, huggingface/diffusers#9633, h2oai/h2o-llmstudio#663.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Schedule
from gradledger.rules._books import Books, between_backwards, num_micro_batches, plural, strip
from gradledger.rules._registry import Cause

CODE = "GL401"
SEVERITY = "error"
FIX = "Step the scheduler right after optimizer.step(), under the same condition."


def check(books: Books) -> Iterator[Cause]:
    """A scheduler that advances between the backward passes of a window."""
    for series in books.series:
        for window in series.closed:
            size = num_micro_batches(window)
            inside = between_backwards(window, Schedule)
            # An epoch's end inside a window that carries over is one advance; a window of micro-batches has them all.
            if size > 1 and len(inside) >= size - 1 and not (series.usual_size > 2 and len(inside) < 2):
                yield Cause(
                    location=inside[0].location,
                    message=f"The scheduler advances with every micro-batch: {plural(len(inside) + 1, 'time')} in a "
                    f"window of {size} that makes one update.",
                    update=inside[0].update,
                    account=series.account,
                    evidence=(strip(window.entries, *inside),),
                )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=3)
for i, x in enumerate(torch.randn(12, 8, 4)):
    loss = model(x).square().mean() / 4
    loss.backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
    scheduler.step()  # expect: scheduler-per-micro-batch
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=3)
for i, x in enumerate(torch.randn(12, 8, 4)):
    loss = model(x).square().mean() / 4
    loss.backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
"""
