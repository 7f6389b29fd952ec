"""The balance algebra: is a window's gradient that of the whole batch?

A window holds micro-batches i = 1..n with mean losses m_i over w_i units, W = Σ w_i. The whole batch's gradient is
Σ (w_i / W) ∇m_i. A backward with scale s adds s ∇m_i where its loss is a mean and s w_i ∇m_i where it is a sum, and
every later change of ``.grad`` by a factor f multiplies what is already there. The *ratio* of a backward is the
coefficient that its ∇m_i ends with, divided by w_i / W: 1 for each in a balanced window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gradledger.ledger.entries import Adjust, Backward, Zero
from gradledger.ledger.windows import Window

Verdict = Literal["balanced", "scaled", "uneven", "unknown"]


@dataclass(frozen=True, slots=True)
class Balance:
    """How a window's gradient relates to the whole batch's.

    Args:
        verdict: ``balanced``; ``scaled``: off by one factor throughout; ``uneven``: micro-batches count unlike their
            weights; ``unknown``: a scale, reduction, weight or change by hand is not known.
        factor: The measured gradient is this many times the whole batch's. None unless balanced or scaled.
        ratios: One for each backward that the step consumed; one that adds nothing, and should not, has the others'
            factor. Empty when unknown.
    """

    verdict: Verdict
    factor: float | None = None
    ratios: tuple[float, ...] = ()


_UNKNOWN = Balance("unknown")


def balance_of(window: Window, *, tolerance: float = 1e-4) -> Balance:
    """Compare a window's coefficients with the whole batch's.

    Args:
        window: The window to judge; micro-batches that were zeroed away inside it are left out.
        tolerance: Ratios this close, relatively, count as equal: scales read from float32 graphs are rounded.

    Example:
        >>> from gradledger.ledger import Backward, Ledger, Step
        >>> mean = dict(weight=16.0, scale=1.0, reduction="mean")
        >>> ledger = Ledger([Backward(micro_batch=1, **mean), Backward(micro_batch=2, **mean), Step()])
        >>> balance_of(ledger.windows()[0]).factor
        2.0
    """
    coefficients = coefficients_of(window)
    if not coefficients:
        return _UNKNOWN
    totals: dict[str, dict[int, float]] = {}
    for backward, _ in coefficients:
        if backward.weight is None:
            return _UNKNOWN
        totals.setdefault(backward.unit, {})[backward.micro_batch] = backward.weight
    ratios: list[float | None] = []
    for backward, coefficient in coefficients:
        total = math.fsum(totals[backward.unit].values())
        if backward.weight == 0.0 and coefficient == 0.0:
            ratios.append(None)  # adds nothing, as it should
        elif coefficient is None or not backward.weight or total <= 0:
            return _UNKNOWN
        else:
            ratios.append(coefficient * total / backward.weight)
    known = [ratio for ratio in ratios if ratio is not None]
    if not known:
        return _UNKNOWN
    factor = math.fsum(known) / len(known)
    filled = tuple(factor if ratio is None else ratio for ratio in ratios)
    if any(not math.isclose(ratio, factor, rel_tol=tolerance) for ratio in known):
        return Balance("uneven", None, filled)
    balanced = math.isclose(factor, 1.0, rel_tol=tolerance)
    return Balance("balanced" if balanced else "scaled", factor, filled)


def coefficients_of(window: Window) -> list[tuple[Backward, float | None]]:
    """Each consumed backward with the coefficient of its mean loss's gradient, None where that is unknown."""
    held: list[tuple[Backward, float | None]] = []
    is_known = not window.begins_by_hand
    for entry in window.body:
        if isinstance(entry, Backward):
            held.append((entry, _own_coefficient(entry) if is_known else None))
        elif isinstance(entry, Zero) and not entry.partial:
            held.clear()
            is_known = True
        elif isinstance(entry, Adjust):
            factor = entry.factor
            held = [(b, None if c is None or factor is None else c * factor) for b, c in held]
    return held


def _own_coefficient(backward: Backward) -> float | None:
    if backward.scale is None or backward.reduction is None:
        return None
    if backward.reduction == "mean":
        return backward.scale
    return None if backward.weight is None else backward.scale * backward.weight
