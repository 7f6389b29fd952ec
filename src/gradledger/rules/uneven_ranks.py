"""Units weigh more on one rank than on another, since each rank averages over its own window.

The ranks' gradients are averaged alike, whatever stands behind them: a window of 4 micro-batches on one rank and of 2
on another, or one with 400 tokens and one with 40, count the same. The whole batch would weigh every sample and every
token alike. It is judged where ranks can be compared: in an audit under torchrun, or of a program that starts its ranks
itself.

Differences below one percent are left alone, and so is training that does not accumulate.

Source: huggingface/transformers#34242 and PR#34373 (tokens averaged over devices), unsloth.ai/blog/gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradledger.ledger import Location, Window, coefficients_of
from gradledger.rules._books import Books, Series, plural
from gradledger.rules._registry import Cause
from gradledger.rules._scaling import is_leaked, is_robbed

CODE = "GL503"
SEVERITY = "warning"
OVER_RANKS = True
FIX = (
    "Reduce the window's units over all ranks once, and divide by that total: multiply each sum by ranks / total, each "
    "mean by its own units × ranks / total."
)
_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class _Part:
    """What one rank puts into an update.

    Args:
        rank: The rank.
        size: Its backward passes.
        weight: Its units.
        unit: What these are.
        coefficient: What one unit counts.
        update: The update.
        account: The account.
        location: Its first line.
    """

    rank: int
    size: int
    weight: float
    unit: str
    coefficient: float
    update: int
    account: str
    location: Location | None


def check(books: Books) -> Iterator[Cause]:
    """An update to which the ranks bring unlike units that they weigh by their own number."""
    accumulates = {series.account for series in books.series if series.accumulates}
    updates: dict[tuple[str, int], list[_Part]] = {}
    for series in books.series:
        for window in series.closed:
            part = _part(series, window)
            if part is not None and series.account in accumulates:
                updates.setdefault((series.account, part.update), []).append(part)
    for parts in updates.values():
        heaviest, lightest = max(parts, key=_coefficient), min(parts, key=_coefficient)
        if {part.unit for part in parts} == {heaviest.unit} and _differ(heaviest, lightest):
            yield _cause(heaviest, lightest)


def _part(series: Series, window: Window) -> _Part | None:
    """What a window puts into its update; None where that is not known, or has a rule of its own."""
    if window.step is None or is_leaked(series, window) or is_robbed(window):
        return None
    terms = coefficients_of(window)
    first = terms[0][0]
    weight = math.fsum(backward.weight or 0.0 for backward, _ in terms)
    if weight <= 0 or any(c is None or b.weight is None or b.unit != first.unit for b, c in terms):
        return None
    coefficient = math.fsum(c for _, c in terms if c is not None) / weight
    update = window.step.update
    return _Part(first.rank, len(terms), weight, first.unit, coefficient, update, series.account, first.location)


def _coefficient(part: _Part) -> float:
    return part.coefficient


def _differ(heaviest: _Part, lightest: _Part) -> bool:
    return heaviest.rank != lightest.rank and heaviest.coefficient > (1 + _TOLERANCE) * lightest.coefficient > 0


def _cause(heaviest: _Part, lightest: _Part) -> Cause:
    return Cause(
        location=heaviest.location,
        message=f"One of the {heaviest.unit} on rank {heaviest.rank} ({_window(heaviest)}) weighs "
        f"{heaviest.coefficient / lightest.coefficient:.2f} times as much as one on rank {lightest.rank} "
        f"({_window(lightest)}).",
        update=heaviest.update,
        account=heaviest.account,
    )


def _window(part: _Part) -> str:
    return f"{part.weight:g} in {plural(part.size, 'backward pass')}"


BAD = """
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

if "RANK" in os.environ:  # torchrun --nproc-per-node 2
    dist.init_process_group("gloo")
else:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
torch.manual_seed(dist.get_rank())
model = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
num_rows = 8 if dist.get_rank() == 0 else 2
for window in torch.randn(3, 4, num_rows, 4):
    with model.no_sync():
        for x in window[:-1]:
            (model(x).square().sum() / (4 * num_rows)).backward()  # expect[ranks]: uneven-ranks
    (model(window[-1]).square().sum() / (4 * num_rows)).backward()
    optimizer.step()
    optimizer.zero_grad()
dist.destroy_process_group()
"""

GOOD = """
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

if "RANK" in os.environ:  # torchrun --nproc-per-node 2
    dist.init_process_group("gloo")
else:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
torch.manual_seed(dist.get_rank())
model = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
num_rows = 8 if dist.get_rank() == 0 else 2
for window in torch.randn(3, 4, num_rows, 4):
    total = torch.tensor(4 * num_rows)
    dist.all_reduce(total)
    share = dist.get_world_size() / total.item()
    with model.no_sync():
        for x in window[:-1]:
            (model(x).square().sum() * share).backward()
    (model(window[-1]).square().sum() * share).backward()
    optimizer.step()
    optimizer.zero_grad()
dist.destroy_process_group()
"""
