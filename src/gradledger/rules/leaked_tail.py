"""An epoch's tail is still in the gradient when the next epoch's first window steps.

The step is taken when the *epoch's* counter reaches a multiple of K, the counter starts again with each epoch, and
nobody steps or zeroes at the border. So each epoch's first window holds its own K micro-batches and the tail of the
epoch before: more than K, scaled for K. A window that carries over and still ends after exactly K is right.

Source: huggingface/transformers (a loader without a length, `_run_epoch`), tracel-ai/burn#5695.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.rules._books import Books, num_micro_batches, plural, strip
from gradledger.rules._registry import Cause
from gradledger.rules._scaling import is_leaked

CODE = "GL104"
SEVERITY = "error"
FIX = (
    "Step (or zero, knowingly) at the end of the epoch, or count micro-batches over epochs so that every window "
    "ends after exactly K."
)


def check(books: Books) -> Iterator[Cause]:
    """Windows over an epoch's border that are fuller than the others."""
    for series in books.series:
        usual = series.usual_size
        for window in series.closed:
            if is_leaked(series, window):
                size = num_micro_batches(window)
                assert window.step
                yield Cause(
                    location=window.step.location,
                    message=f"This window began in the epoch before and holds {plural(size, 'micro-batch')} where "
                    f"windows hold {usual}: a tail of {size - usual} leaked into it.",
                    update=window.step.update,
                    account=series.account,
                    evidence=(strip(window.entries, window.step),),
                )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    for i, x in enumerate(torch.randn(6, 8, 4)):
        loss = model(x).square().mean() / 4
        loss.backward()
        if (i + 1) % 4 == 0:
            optimizer.step()  # expect: leaked-tail, dropped-tail
            optimizer.zero_grad()
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
num_micro_batches = 0
for epoch in range(2):
    for x in torch.randn(6, 8, 4):
        loss = model(x).square().mean() / 4
        loss.backward()
        num_micro_batches += 1
        if num_micro_batches % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
"""
