"""Gradients are clipped while the gradient scaler's factor is still in them.

With a scale of 65536 every gradient is far over the limit, so each is cut to a norm of `limit / 65536` after the scaler
has divided it: training almost stands still, or its speed follows the scaler's factor.

Source: huggingface/transformers#1563, microsoft/Swin-Transformer#311.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Backward, Clip, Unscale, Zero
from gradledger.rules._books import Books, strip
from gradledger.rules._registry import Cause

CODE = "GL302"
SEVERITY = "error"
FIX = "Call scaler.unscale_(optimizer) once, after the last backward and before the clip."


def check(books: Books) -> Iterator[Cause]:
    """A clip after a scaled backward, with no unscaling between."""
    for series in books.series:
        for window in series.windows:
            scaled = False
            for entry in window.body:
                if isinstance(entry, Backward):
                    scaled = scaled or entry.scaled_by_scaler is True
                elif isinstance(entry, Unscale) or (isinstance(entry, Zero) and not entry.partial):
                    scaled = False
                elif isinstance(entry, Clip) and scaled:
                    yield Cause(
                        location=entry.location,
                        message="Clipped while the gradient scaler's factor is still in the gradient: the limit "
                        "bounds the scaled gradient, not the real one.",
                        update=entry.update,
                        account=series.account,
                        evidence=(strip(window.entries, entry),),
                    )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
for x in torch.randn(6, 8, 4):
    optimizer.zero_grad()
    scaler.scale(model(x).square().mean()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # expect: clip-scaled-gradient
    scaler.step(optimizer)
    scaler.update()
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
for x in torch.randn(6, 8, 4):
    optimizer.zero_grad()
    scaler.scale(model(x).square().mean()).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
"""
