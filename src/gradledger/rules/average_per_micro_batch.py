"""A running average of the weights is updated with every micro-batch instead of every update.

Between two updates the weights do not change, so K of the K advances per window repeat the same weights: an average
with decay 0.999 behaves like one with 0.999^K, a teacher follows K times too fast.

The average may be torch's `AveragedModel` or arithmetic of your own over the parameters.

Source: SWivid/F5-TTS#631, lightly-train#968, keras-team/keras#19990.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Average
from gradledger.rules._books import Books, between_backwards, num_micro_batches, plural, strip
from gradledger.rules._registry import Cause

CODE = "GL404"
SEVERITY = "warning"
FIX = "Update the average right after optimizer.step(), under the same condition."


def check(books: Books) -> Iterator[Cause]:
    """An average that advances between the backward passes of a window."""
    for series in books.series:
        for window in series.closed:
            size = num_micro_batches(window)
            inside = between_backwards(window, Average)
            if size > 1 and len(inside) >= size - 1:
                yield Cause(
                    location=inside[0].location,
                    message=f"The average takes in the same weights {plural(len(inside) + 1, 'time')} per update.",
                    update=inside[0].update,
                    account=series.account,
                    evidence=(strip(window.entries, *inside),),
                )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
average = torch.optim.swa_utils.AveragedModel(model)
for i, x in enumerate(torch.randn(12, 8, 4)):
    loss = model(x).square().mean() / 4
    loss.backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
    average.update_parameters(model)  # expect: average-per-micro-batch
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
average = torch.optim.swa_utils.AveragedModel(model)
for i, x in enumerate(torch.randn(12, 8, 4)):
    loss = model(x).square().mean() / 4
    loss.backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
"""
