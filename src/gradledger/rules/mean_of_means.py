"""Means over unlike numbers of units are weighted alike.

A micro-batch with 40 tokens and one with 400 each count a quarter of the window, so a token of the first weighs ten
times as much as a token of the second. The large batch would weigh all tokens alike. The same holds for samples where
the last micro-batch is short. This was the gradient accumulation bug of 2024, and it still comes back.

Differences below one percent are left alone.

Source: unsloth.ai/blog/gradient, huggingface/transformers PR#34191, ml-explore/mlx-lm PR#1544.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradledger.ledger import Backward
from gradledger.rules._books import Books, Series, strip
from gradledger.rules._registry import Cause
from gradledger.rules._scaling import Scaling, scalings

CODE = "GL203"
SEVERITY = "error"
FIX = (
    "Weight each mean by its share of the window: multiply by its tokens (or samples) and divide by those of the "
    "whole window, or add up sums and divide once."
)


_TOLERANCE = 0.01


def check(books: Books) -> Iterator[Cause]:
    """A line whose means count alike in a window although their weights differ."""
    for series in books.series:
        for scaling in scalings(series):
            if scaling.num_micro_batches > 1 and _is_mean_of_means(scaling):
                yield _cause(series, scaling)


def _is_mean_of_means(scaling: Scaling) -> bool:
    weights = [backward.weight for backward in scaling.backwards if backward.weight]
    if len(weights) < len(scaling.backwards) or len({backward.unit for backward in scaling.backwards}) > 1:
        return False
    coefficients = [math.prod(factors) for factors in scaling.factors]
    alike = all(math.isclose(coefficient, coefficients[0], rel_tol=1e-3) for coefficient in coefficients)
    return alike and max(weights) > (1 + _TOLERANCE) * min(weights)


def _cause(series: Series, scaling: Scaling) -> Cause:
    heaviest = max(scaling.backwards, key=_weight)
    lightest = min(scaling.backwards, key=_weight)
    return Cause(
        location=lightest.location,
        message=f"Means over {_weight(lightest):g} and over {_weight(heaviest):g} {lightest.unit} count the same in "
        f"one window: each of the few weighs {_weight(heaviest) / _weight(lightest):.2f} times as much.",
        update=lightest.update,
        account=series.account,
        evidence=(
            strip(scaling.window.entries, lightest),
            f"{lightest.unit} per backward: {', '.join(f'{_weight(b):g}' for b in scaling.backwards[:12])}",
        ),
    )


def _weight(backward: Backward) -> float:
    return backward.weight or 0.0


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
micro_batches = [(torch.randn(n, 4), torch.randint(0, 3, (n,))) for n in (8, 2, 8, 2)]
for epoch in range(3):
    for x, y in micro_batches:
        loss = torch.nn.functional.cross_entropy(model(x), y) / 4
        loss.backward()  # expect: mean-of-means
    optimizer.step()
    optimizer.zero_grad()
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
micro_batches = [(torch.randn(n, 4), torch.randint(0, 3, (n,))) for n in (8, 2, 8, 2)]
for epoch in range(3):
    for x, y in micro_batches:
        loss = torch.nn.functional.cross_entropy(model(x), y, reduction="sum") / 20
        loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""
