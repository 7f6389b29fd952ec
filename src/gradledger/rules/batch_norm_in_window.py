"""Batch normalisation in training mode saw several micro-batches in one window.

Each micro-batch is normalised by its own mean and variance, and the running statistics take in each of them. That is
not what the large batch would do, and no scaling of the loss repairs it. With micro-batches of a fair size it hardly
matters; with one or two samples it does.

Source: pytorch/pytorch#46516, ultralytics/yolov5#1630.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.rules._books import Books, num_micro_batches
from gradledger.rules._registry import Cause

CODE = "GL601"
SEVERITY = "info"
FIX = (
    "Keep micro-batches large enough, freeze the statistics, or use a normalisation that does not look across samples."
)


def check(books: Books) -> Iterator[Cause]:
    """A window of several micro-batches through batch normalisation."""
    for series in books.series:
        for window in series.closed:
            size = num_micro_batches(window)
            normalised = [backward for backward in window.consumed if backward.batch_norm]
            if size > 1 and normalised:
                yield Cause(
                    location=normalised[0].location,
                    message=f"Batch normalisation used the statistics of each of {size} micro-batches, not of the "
                    "whole window.",
                    update=normalised[0].update,
                    account=series.account,
                )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i, x in enumerate(torch.randn(12, 8, 4)):
    loss = model(x).square().mean() / 4
    loss.backward()  # expect: batch-norm-in-window
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i, x in enumerate(torch.randn(12, 8, 4)):
    loss = model(x).square().mean() / 4
    loss.backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
"""
