"""The host waits for the device in every micro-batch.

`.item()`, `.cpu()`, `float(loss)` or printing a tensor stop the program until the device has caught up; then nothing is
queued and the device idles while Python prepares the next micro-batch. Once per update is enough. Seen in source text;
on a CPU there is nothing to wait for.

Source: huggingface/transformers `trainer.py` (two reads per micro-batch, measured).
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Metric
from gradledger.rules._books import Books
from gradledger.rules._registry import Cause

CODE = "GL702"
SEVERITY = "info"
FIX = "Add up detached losses on the device and read the sum once per update."


def check(books: Books) -> Iterator[Cause]:
    """A number read from the device with every micro-batch of a window."""
    accumulating = {series.account for series in books.series if series.accumulates}
    for entry in books.entries:
        if isinstance(entry, Metric) and entry.host_sync and entry.account in accumulating:
            yield Cause(
                location=entry.location,
                message="The host waits for the device here, with every micro-batch.",
                update=entry.update,
                account=entry.account,
            )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
losses = []
for i, x in enumerate(torch.randn(12, 8, 4)):
    loss = model(x).square().mean()
    losses.append(loss.item())  # expect[lint]: host-sync-per-micro-batch
    (loss / 4).backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
total = torch.zeros(())
for i, x in enumerate(torch.randn(12, 8, 4)):
    loss = model(x).square().mean()
    total += loss.detach()
    (loss / 4).backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
average = total.item() / 12
"""
