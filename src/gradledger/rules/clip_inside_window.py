"""Gradients are clipped between two backward passes of one window.

Clipping after every micro-batch bounds partial sums: the first micro-batches are scaled down again and again, the last
one least. The result is neither the large batch's gradient nor its clipped form. Clip once, over the whole window.

Source: huggingface/transformers#986, facebookresearch/lingua PR#59, pytorch/examples#1196.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Clip
from gradledger.rules._books import Books, between_backwards, num_micro_batches, plural, strip
from gradledger.rules._registry import Cause

CODE = "GL301"
SEVERITY = "error"
FIX = "Clip once, after the last backward of the window and before the step."


def check(books: Books) -> Iterator[Cause]:
    """A clip with backward passes of the same window before and after it."""
    for series in books.series:
        for window in series.windows:
            if window.step is None:
                continue
            for clip in between_backwards(window, Clip):
                size = num_micro_batches(window)
                yield Cause(
                    location=clip.location,
                    message=f"Clipped in the middle of a window of {plural(size, 'micro-batch')}: what the later ones "
                    "add is not covered, what the earlier ones added is clipped more than once.",
                    update=clip.update,
                    account=series.account,
                    evidence=(strip(window.entries, clip),),
                )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i, x in enumerate(torch.randn(12, 8, 4)):
    loss = model(x).square().mean() / 4
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # expect: clip-inside-window
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
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
"""
