"""A loss that is NaN at every micro-batch, under each policy: void, skipped or left out, exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from faults.runs import Case
from gradledger import Accumulator
from gradledger.engine import NonFiniteError

SIZES = (4, 3, 2)
NUM_WINDOWS = 4


def not_finite(_folder: Path, part: float) -> Iterator[Case]:
    """Compared with a loop by hand over whole batches that leaves out what the policy leaves out."""
    every = max(1, round(1 / part))
    for policy in ("raise", "skip-update", "drop-micro-batch"):
        for value in (math.nan, math.inf):
            for at in range(0, NUM_WINDOWS * len(SIZES), every):
                yield _case(policy, at, value)


def _case(policy: str, at: int, value: float) -> Case:
    found, was_told = _accumulated(policy, at, value)
    expected = _by_hand(policy, at)
    pairs = zip(found.parameters(), expected.parameters(), strict=True)
    is_right = all((one - other).abs().max() <= 1e-12 * other.abs().max() for one, other in pairs)
    if not is_right or was_told != (policy == "raise"):
        return Case("wrong", note=f"{policy} {value} at {at}: told {was_told}, right {is_right}")
    return Case("refused" if was_told else "right")


def _windows() -> list[list[tuple[Tensor, Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    return [
        [
            (torch.randn(n, 5, generator=generator).double(), torch.randn(n, 1, generator=generator).double())
            for n in SIZES
        ]
        for _ in range(NUM_WINDOWS)
    ]


def _model() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)).double()
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def _accumulated(policy: str, at: int, value: float) -> tuple[nn.Module, bool]:
    """Trained with one loss that is not finite; whether that raised. A window that raised is void, and not repeated."""
    model, optimizer = _model()
    accumulator = Accumulator(model, optimizer, non_finite=policy)  # type: ignore[arg-type]
    batches = [batch for window in _windows() for batch in window]
    was_told = False
    with_losses = [(*batch, value if number == at else 1.0) for number, batch in enumerate(batches)]
    for start in range(0, len(batches), len(SIZES)):
        try:
            for window in accumulator.windows(with_losses[start : start + len(SIZES)], steps=len(SIZES)):
                with window:
                    for inputs, targets, factor in window:
                        window.backward((model(inputs) - targets).square().mean() * factor)
        except NonFiniteError:
            was_told = True
    return model, was_told


def _by_hand(policy: str, at: int) -> nn.Module:
    model, optimizer = _model()
    for number, window in enumerate(_windows()):
        broken = at - number * len(SIZES)
        kept = [batch for place, batch in enumerate(window) if place != broken]
        if len(kept) < len(window) and policy != "drop-micro-batch":
            continue
        inputs, targets = (torch.cat(each) for each in zip(*kept, strict=True))
        (model(inputs) - targets).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model
