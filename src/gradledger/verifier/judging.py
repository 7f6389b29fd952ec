"""Errors, and the tolerances that they are judged by.

A tolerance is derived, not chosen. In the working precision the whole batch has an error of its own: the distance of
its gradient from the same gradient in float64. A sum over micro-batches may be as far off, and besides rounds once per
addition: K additions of unit roundoff u are off by about √K u. For float64 itself there is nothing better to compare
with, so the error in float32 is brought down by the ratio of the two types' roundoffs. Where a model does not run in
float64 (kernels that are written for less), float32 takes its place, and bfloat16 that of float32.

A parameter's own error can be small by luck and its gradient zero but for rounding, so its error counts as at least its
share of the error of the whole model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from gradledger.verifier.result import ParameterError
from gradledger.verifier.trial import Gradient

HEADROOM = 8.0
"""Rounding errors are draws of one distribution. Over 3 draws of the test suite's 44 models, no parameter's error came
above 2.6 times its own whole batch's, in float32."""

HEADROOM_EXACT = 32.0
"""The same brought down from float32: float64's kernels sum in other orders (3.4 times at most, over those draws). The
faults that this is to find are a million times larger."""


@dataclass(frozen=True)
class Gradients:
    """The gradients that are compared.

    Args:
        reference: The whole batch in the exact type.
        accumulated_exact: The micro-batches in the exact type.
        whole_lower: The whole batch in the next lower type.
        whole: The whole batch in the working precision.
        accumulated: The micro-batches in the working precision.
        roundoff: Unit roundoff of the type that gradients accumulate in.
        num_micro_batches: K.
        exact: The type that all else is measured against: float64, or float32 where a model does not run in float64.
    """

    reference: Gradient
    accumulated_exact: Gradient
    whole_lower: Gradient
    whole: Gradient
    accumulated: Gradient
    roundoff: float
    num_micro_batches: int
    exact: torch.dtype = torch.float64


def judge(gradients: Gradients) -> tuple[ParameterError, ...]:
    """The error of each parameter and its tolerance."""
    names = list(dict.fromkeys([*gradients.reference, *gradients.accumulated_exact]))
    sizes = {n: (gradients.reference.get(n, gradients.accumulated_exact.get(n))) for n in names}
    num_values = {name: tensor.numel() for name, tensor in sizes.items() if tensor is not None}
    norms = {name: _norm(gradients.reference, name) for name in names}
    own = {name: distance(gradients.whole, gradients.reference, name) for name in names}
    own_lower = {name: distance(gradients.whole_lower, gradients.reference, name) for name in names}
    errors = {name: distance(gradients.accumulated, gradients.reference, name) for name in names}
    errors_exact = {name: distance(gradients.accumulated_exact, gradients.reference, name) for name in names}
    total, total_own, total_lower = (math.hypot(*each.values()) for each in (norms, own, own_lower))
    additions = math.sqrt(gradients.num_micro_batches)
    roundoff = torch.finfo(gradients.exact).eps / 2
    step_down = 2 * roundoff / torch.finfo(lower_type(gradients.exact)).eps
    judged = []
    for name in names:
        share = math.sqrt(num_values[name] / sum(num_values.values()))
        noise = max(own[name], total_own * share)
        noise_exact = max(own_lower[name], total_lower * share) * step_down
        # A gradient that is zero but for rounding is measured against what a gradient of its size typically is.
        unit = norms[name] if norms[name] > max(noise, own_lower[name]) else max(total * share, norms[name])
        unit = unit or 1.0
        judged.append(
            ParameterError(
                name=name,
                num_values=num_values[name],
                norm=norms[name],
                error=errors[name] / unit,
                tolerance=HEADROOM * noise / unit + additions * gradients.roundoff,
                whole_error=own[name] / unit,
                error_exact=errors_exact[name] / unit,
                tolerance_exact=HEADROOM_EXACT * noise_exact / unit + additions * roundoff,
            )
        )
    return tuple(judged)


def lower_type(exact: torch.dtype) -> torch.dtype:
    """The type whose error, brought down by the ratio of roundoffs, tells the error in the exact one."""
    return torch.float32 if exact == torch.float64 else torch.bfloat16


def in_one_column(judged: Iterable[ParameterError]) -> tuple[ParameterError, ...]:
    """For a model in the exact type, which nothing more exact can be held against: both comparisons are one."""
    return tuple(replace(each, error=each.error_exact, tolerance=each.tolerance_exact) for each in judged)


def relative_distance(one: Gradient, other: Gradient) -> float:
    """The distance of two gradients over all parameters, relative to the norm of the second."""
    names = {*one, *other}
    scale = math.hypot(*(_norm(other, name) for name in names))
    gap = math.hypot(*(distance(one, other, name) for name in names))
    return gap / scale if scale else (0.0 if gap == 0 else math.inf)


def distance(one: Gradient, other: Gradient, name: str) -> float:
    """The distance of one parameter's gradients; a missing gradient is zero."""
    if name in one and name in other:
        return float((one[name] - other[name]).norm())
    return _norm(one, name) + _norm(other, name)


def _norm(gradient: Gradient, name: str) -> float:
    return float(gradient[name].norm()) if name in gradient else 0.0
