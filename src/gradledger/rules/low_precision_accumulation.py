"""Many micro-batches are added up in a 16-bit gradient.

bfloat16 keeps 8 bits: once the sum is 256 times a contribution, adding it changes nothing. 1000 contributions of 0.001
come to 0.5 instead of 1.0. Small, steady gradients are lost first, and the more micro-batches, the more.

Source: pytorch/pytorch#158709, DeepSpeed#2768, NVIDIA/Megatron-LM#372.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.rules._books import Books, num_micro_batches, strip
from gradledger.rules._registry import Cause

CODE = "GL306"
SEVERITY = "warning"
FIX = (
    "Keep float32 parameters and use autocast, or accumulate in float32 (Tensor.grad_dtype) and cast once before "
    "the step."
)


_MANY = 8
_SHORT_DTYPES = ("bfloat16", "float16")


def check(books: Books) -> Iterator[Cause]:
    """A window of many micro-batches in 16 bits."""
    for series in books.series:
        for window in series.closed:
            last = window.consumed[-1]
            size = num_micro_batches(window)
            if size >= _MANY and last.grad_dtype in _SHORT_DTYPES:
                yield Cause(
                    location=last.location,
                    message=f"{size} micro-batches are added up in {last.grad_dtype}: contributions below "
                    f"{'1/256' if last.grad_dtype == 'bfloat16' else '1/2048'} of the sum are lost.",
                    update=last.update,
                    account=series.account,
                    evidence=(strip(window.entries, last),),
                )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1).to(torch.bfloat16)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i, x in enumerate(torch.randn(32, 8, 4, dtype=torch.bfloat16)):
    loss = model(x).square().mean() / 16
    loss.backward()  # expect: low-precision-accumulation
    if (i + 1) % 16 == 0:
        optimizer.step()
        optimizer.zero_grad()
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i, x in enumerate(torch.randn(32, 8, 4)):
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x).float().square().mean() / 16
    loss.backward()
    if (i + 1) % 16 == 0:
        optimizer.step()
        optimizer.zero_grad()
"""
