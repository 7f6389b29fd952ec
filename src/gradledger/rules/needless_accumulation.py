"""The whole effective batch would fit in memory.

Accumulation saves memory, not time: K small forward and backward passes are slower than one large one. Where the peak
of the device's memory is so low that K times as much would still fit, a larger micro-batch does the same update
faster. Judged only where the device reports its memory.

Source: google-research/tuning_playbook#38, huggingface/transformers#10163.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.rules._books import Books, num_micro_batches, strip
from gradledger.rules._registry import Cause

CODE = "GL703"
SEVERITY = "info"
FIX = "Use larger micro-batches and fewer of them; `gradledger plan` measures how large."


_SAFE_SHARE = 0.5


def check(books: Books) -> Iterator[Cause]:
    """A window whose micro-batches, taken together, would fill at most half of the memory."""
    for series in books.series:
        for window in series.closed:
            step = window.step
            size = num_micro_batches(window)
            share = step.memory_share if step else None
            if step and share is not None and size > 1 and share * size <= _SAFE_SHARE:
                yield Cause(
                    location=step.location,
                    message=f"{size} micro-batches are accumulated at {share:.1%} of the device's memory: all {size} "
                    "at once would fit.",
                    update=step.update,
                    account=series.account,
                    evidence=(strip(window.entries, step),),
                )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
if torch.cuda.is_available():
    model.cuda()
for i, x in enumerate(torch.randn(12, 8, 4)):
    loss = model(x.to(model.weight.device)).square().mean() / 4
    loss.backward()
    if (i + 1) % 4 == 0:
        optimizer.step()  # with a device that reports its memory: needless-accumulation
        optimizer.zero_grad()
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.randn(3, 32, 4):
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
"""
