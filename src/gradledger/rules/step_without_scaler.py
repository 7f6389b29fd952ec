"""The loss was scaled, but the optimizer steps on the scaled gradient.

`optimizer.step()` called directly, where `scaler.step(optimizer)` belongs, uses gradients that are 65536 times too
large (or whatever the factor is), and no overflow is ever skipped. Adam's normalisation hides most of it.

Source: a frequent question; pytorch's notes on automatic mixed precision.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Unscale
from gradledger.rules._books import Books, strip
from gradledger.rules._registry import Cause

CODE = "GL305"
SEVERITY = "error"
FIX = "Call scaler.step(optimizer) and scaler.update(), or unscale the gradients first."


def check(books: Books) -> Iterator[Cause]:
    """A direct step on gradients of a scaled loss."""
    for series in books.series:
        for window in series.closed:
            step = window.step
            scaled = any(backward.scaled_by_scaler for backward in window.consumed)
            unscaled = any(isinstance(entry, Unscale) for entry in window.body)
            if step and step.scaler is False and scaled and not unscaled:
                yield Cause(
                    location=step.location,
                    message="The loss went through a gradient scaler, but this step does not, and nothing took the "
                    "factor out.",
                    update=step.update,
                    account=series.account,
                    evidence=(strip(window.entries, step),),
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
    optimizer.step()  # expect: step-without-scaler
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
    scaler.step(optimizer)
    scaler.update()
"""
