"""A contrastive loss is accumulated over micro-batches.

Its negatives are the other samples of the batch. Four micro-batches of 8 give each sample 7 negatives, the batch of 32
gives 31: the window trains another, easier problem, and no scaling repairs it. Compute all representations first, then
the loss over the whole window (two passes), or gather more negatives.

Source: sentence-transformers PR#1822, open_clip PR#267, luyug/GradCache.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.rules._books import Books, num_micro_batches, plural
from gradledger.rules._registry import Cause

CODE = "GL602"
SEVERITY = "warning"
FIX = "Use a two-pass update (representations of the whole window first), or do without accumulation."


def check(books: Books) -> Iterator[Cause]:
    """A window of several micro-batches whose loss compares the samples of each."""
    for series in books.series:
        for window in series.closed:
            size = num_micro_batches(window)
            coupled = [backward for backward in window.consumed if backward.coupled]
            if size > 1 and len(coupled) > 1:
                yield Cause(
                    location=coupled[0].location,
                    message=f"This loss compares the samples of one micro-batch with each other; a window of "
                    f"{plural(size, 'micro-batch')} never compares samples of different ones, as the large batch "
                    "would.",
                    update=coupled[0].update,
                    account=series.account,
                )


BAD = """
import torch
from torch.nn.functional import cross_entropy, normalize

torch.manual_seed(0)
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i, x in enumerate(torch.randn(12, 8, 4)):
    left, right = normalize(model(x)), normalize(model(x + 0.1))
    loss = cross_entropy(left @ right.T / 0.1, torch.arange(8)) / 4
    loss.backward()  # expect: contrastive-in-window
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
"""

GOOD = """
import torch
from torch.nn.functional import cross_entropy, normalize

torch.manual_seed(0)
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.randn(3, 32, 4):
    left, right = normalize(model(x)), normalize(model(x + 0.1))
    loss = cross_entropy(left @ right.T / 0.1, torch.arange(32))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""
