"""Fits a gradient by those of the micro-batches: with which coefficient does each take part?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradledger.engine.batches.nesting import tensor_leaves
from gradledger.verifier.trial import Gradient

_MAX_VALUES = 2_000_000
# Directions in which the micro-batches' gradients differ by less are rounding, relative to the largest.
_NOISE, _NOISE_64 = 1e-5, 1e-10
_MARGIN = 100.0


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


def fit(
    target: Gradient, parts: Sequence[Gradient], candidates: Sequence[Sequence[float]], *, dtype: torch.dtype | None
) -> Fit:
    """The coefficients of ``parts`` that come closest to ``target``, by least squares.

    Args:
        target: The gradient to explain.
        parts: The gradients to explain it by.
        candidates: Likely coefficients, up to a factor. With fewer parameters than parts, or parts that are alike, many
            coefficients explain the same gradient; then the first candidate that does is taken.
        dtype: The type that the gradients were computed in.
    """
    noise = _NOISE_64 if dtype == torch.float64 else _NOISE
    names = sorted({name for gradient in (target, *parts) for name in gradient})
    flat_target = _flat(target, names, (target, *parts))
    columns = torch.stack([_flat(part, names, (target, *parts)) for part in parts], dim=1)
    if columns.size(0) > _MAX_VALUES:  # a random sketch of the rows fits as well
        rows = torch.randperm(columns.size(0), generator=torch.Generator().manual_seed(0))[:_MAX_VALUES]
        columns, flat_target = columns[rows], flat_target[rows]
    columns, flat_target = columns.cpu(), flat_target.cpu()
    solved = torch.linalg.lstsq(columns, flat_target[:, None], rcond=noise, driver="gelsd")
    if int(solved.rank) < len(parts):
        for candidate in candidates:
            found = _scaled(candidate, columns, flat_target)
            if found.is_close(_MARGIN * noise):
                return found
    return _fit_of(solved.solution[:, 0], columns, flat_target)


def _scaled(candidate: Sequence[float], columns: Tensor, target: Tensor) -> Fit:
    """The candidate times the factor that brings it closest."""
    shares = torch.tensor(candidate, dtype=columns.dtype)
    along = columns @ shares
    size = float(along @ along)
    return _fit_of(shares * (float(along @ target) / size if size else 0.0), columns, target)


def _fit_of(coefficients: Tensor, columns: Tensor, target: Tensor) -> Fit:
    left, scale = float((target - columns @ coefficients).norm()), float(target.norm())
    return Fit(tuple(coefficients.tolist()), left / scale if scale else math.inf)


def common_factor(measured: Sequence[float], expected: Sequence[float], tolerance: float) -> float | None:
    """The one factor by which all coefficients are off, or None."""
    ratios = [m / e for m, e in zip(measured, expected, strict=True) if e]
    if not ratios:
        return None
    return ratios[0] if all(math.isclose(ratio, ratios[0], rel_tol=tolerance) for ratio in ratios) else None


def likely_shares(micro_batches: Sequence[Any]) -> list[tuple[float, ...]]:
    """Coefficients that micro-batches often have: in proportion to something countable, or the last one alone."""
    alone = tuple(float(at == len(micro_batches) - 1) for at in range(len(micro_batches)))
    return [*(unit.counts for unit in countable_units(micro_batches)), alone]


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
