"""Gradients are clipped when there is nothing to clip: after the step, or before the backward.

The step has already used the unclipped gradient; or the clip sees empty gradients, because backward comes after it.
The call is there, the limit is in the configuration, and nothing was ever clipped.

Source: simchowitzlabpublic/nano-world-model PR#22, milesial/Pytorch-UNet#468.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Adjust, Clip
from gradledger.rules._books import Books, strip
from gradledger.rules._registry import Cause

CODE = "GL303"
SEVERITY = "error"
FIX = "Clip between the last backward of the window and its step."


def check(books: Books) -> Iterator[Cause]:
    """A clip between one window's end and the next one's first backward."""
    for series in books.series:
        for previous, window in zip([None, *series.windows], series.windows, strict=False):
            by_hand = False  # a gradient written by hand is there to be clipped
            for entry in window.lead:
                by_hand = by_hand or isinstance(entry, Adjust)
                if isinstance(entry, Clip) and not by_hand:
                    before = previous.entries if previous else ()
                    yield Cause(
                        location=entry.location,
                        message="Clipped while there is nothing to clip: "
                        + ("the step has used the gradient." if previous else "no backward has run yet."),
                        update=entry.update,
                        account=series.account,
                        evidence=(strip(before + window.entries, entry),),
                    )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.randn(6, 8, 4):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # expect: clip-after-step
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.randn(6, 8, 4):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
"""
