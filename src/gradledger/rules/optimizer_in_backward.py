"""An optimizer steps from inside the backward pass while the loop accumulates.

Fusing the step into backward (`register_post_accumulate_grad_hook`) saves the memory of the gradients because each is
used and dropped at once. So there is nothing left to accumulate: every micro-batch is an update of its own, with 1/K of
the gradient.

Source: pytorch/pytorch#124523, torchtune (declares the two mutually exclusive).
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Backward
from gradledger.rules._books import Books
from gradledger.rules._registry import Cause

CODE = "GL206"
SEVERITY = "error"
FIX = "Accumulate or step inside backward, not both: drop the hooks, or the accumulation (and its division)."


def check(books: Books) -> Iterator[Cause]:
    """A step inside a backward whose loss was divided for a window."""
    for series in books.series:
        for window in series.windows:
            step = window.step
            if step is None or not step.in_backward or not window.consumed:
                continue
            backward = window.consumed[-1]
            if _is_divided(backward):
                yield Cause(
                    location=backward.location,
                    message=f"An optimizer stepped during this backward, whose loss is scaled by {backward.scale:.4g} "
                    "as for a window of several micro-batches: each micro-batch is its own update.",
                    update=step.update,
                    account=series.account,
                )


def _is_divided(backward: Backward) -> bool:
    scale = backward.scale
    return scale is not None and 0 < scale <= 0.5 and abs(1 / scale - round(1 / scale)) < 1e-3


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}


def step_now(parameter):
    optimizers[parameter].step()
    optimizers[parameter].zero_grad()


for p in model.parameters():
    p.register_post_accumulate_grad_hook(step_now)
for x in torch.randn(8, 8, 4):
    loss = model(x).square().mean() / 4
    loss.backward()  # expect: optimizer-in-backward
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}


def step_now(parameter):
    optimizers[parameter].step()
    optimizers[parameter].zero_grad()


for p in model.parameters():
    p.register_post_accumulate_grad_hook(step_now)
for x in torch.randn(8, 8, 4):
    loss = model(x).square().mean()
    loss.backward()
"""
