"""Fits a gradient by those of the micro-batches: with which coefficient does each take part?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradledger.engine.batches import tensor_leaves
from gradledger.verifier.trial import Gradient

_MAX_VALUES = 2_000_000


@dataclass(frozen=True, slots=True)
class Fit:
    """A gradient as a sum of others.

    Args:
        coefficients: One for each.
        residual: What they leave unexplained, relative to the gradient's norm.
    """

    coefficients: tuple[float, ...]
    residual: float

    def is_close(self, tolerance: float) -> bool:
        """Whether the sum explains the gradient."""
        return self.residual <= tolerance


def fit(target: Gradient, parts: Sequence[Gradient]) -> Fit:
    """The coefficients of ``parts`` that come closest to ``target``, by least squares."""
    names = sorted({name for gradient in (target, *parts) for name in gradient})
    flat_target = _flat(target, names, (target, *parts))
    columns = torch.stack([_flat(part, names, (target, *parts)) for part in parts], dim=1)
    if columns.size(0) > _MAX_VALUES:  # a random sketch of the rows fits as well
        rows = torch.randperm(columns.size(0), generator=torch.Generator().manual_seed(0))[:_MAX_VALUES]
        columns, flat_target = columns[rows], flat_target[rows]
    solution = torch.linalg.lstsq(columns.cpu(), flat_target.cpu()[:, None], driver="gelsd").solution[:, 0]
    left = float((flat_target.cpu() - columns.cpu() @ solution).norm())
    scale = float(flat_target.norm())
    return Fit(tuple(solution.tolist()), left / scale if scale else math.inf)


def common_factor(measured: Sequence[float], expected: Sequence[float], tolerance: float) -> float | None:
    """The one factor by which all coefficients are off, or None."""
    ratios = [m / e for m, e in zip(measured, expected, strict=True) if e]
    if not ratios:
        return None
    return ratios[0] if all(math.isclose(ratio, ratios[0], rel_tol=tolerance) for ratio in ratios) else None


@dataclass(frozen=True, slots=True)
class Unit:
    """Something countable in a batch that a loss may be a mean over.

    Args:
        description: What is counted.
        fix: The ``weight=`` that counts it.
        counts: How many of it each micro-batch has.
    """

    description: str
    fix: str
    counts: tuple[float, ...]


def countable_units(micro_batches: Sequence[Any]) -> list[Unit]:
    """What can be counted in micro-batches: themselves, labels that are not ignored, masks, weights."""
    columns: dict[str, list[Tensor]] = {}
    for micro_batch in micro_batches:
        for path, leaf in tensor_leaves(micro_batch, "batch"):
            columns.setdefault(path, []).append(leaf)
    units = [Unit("micro-batches", "weight=1", (1.0,) * len(micro_batches))]
    for path, leaves in columns.items():
        if len(leaves) == len(micro_batches):
            units += _units_of(path, leaves)
    sized = [leaves[0].size(0) for leaves in columns.values() if leaves[0].dim()]
    if sized:
        first = next(leaves for leaves in columns.values() if leaves[0].dim())
        units.insert(1, Unit("samples", "weight=None", tuple(float(leaf.size(0)) for leaf in first)))
    return [unit for unit in units if sum(unit.counts) > 0]


def _units_of(path: str, leaves: list[Tensor]) -> list[Unit]:
    def counted(description: str, fix: str, function: Any) -> Unit:
        return Unit(description, fix, tuple(float(function(leaf)) for leaf in leaves))

    lambda_of = f"weight=lambda batch: {path}"
    if leaves[0].is_floating_point():
        return [counted(f"the sum of {path}", f"{lambda_of}.sum()", lambda leaf: leaf.sum())]
    units = [
        counted(
            f"elements of {path} that are not -100",
            f"weight=gradledger.tokens(labels=lambda batch: {path})",
            lambda leaf: (leaf != -100).sum(),
        ),
        counted(f"elements of {path} that are not 0", f"{lambda_of}.ne(0).sum()", lambda leaf: (leaf != 0).sum()),
    ]
    if leaves[0].dim() > 1:  # next-token losses drop the first position
        units.insert(
            1,
            counted(
                f"elements of {path}[:, 1:] that are not -100",
                f"weight=gradledger.tokens(shift=True, labels=lambda batch: {path})",
                lambda leaf: (leaf[:, 1:] != -100).sum(),
            ),
        )
    return units


def unit_that_fits(shares: Sequence[float], units: Sequence[Unit], tolerance: float) -> Unit | None:
    """The unit whose counts are in proportion to the shares."""
    total = math.fsum(shares)
    if not total:
        return None
    for unit in units:
        counted = math.fsum(unit.counts)
        pairs = zip(shares, unit.counts, strict=True)
        if all(math.isclose(share / total, count / counted, rel_tol=tolerance, abs_tol=1e-9) for share, count in pairs):
            return unit
    return None


def _flat(gradient: Mapping[str, Tensor], names: Sequence[str], all_of: Sequence[Mapping[str, Tensor]]) -> Tensor:
    like = {name: next(each[name] for each in all_of if name in each) for name in names}
    return torch.cat([gradient.get(name, torch.zeros_like(like[name])).reshape(-1) for name in names])
