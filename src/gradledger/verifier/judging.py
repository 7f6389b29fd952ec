"""Errors, and the tolerances that they are judged by.

A tolerance is derived, not chosen. In the working precision the whole batch has an error of its own: the distance of
its gradient from the same gradient in float64. A sum over micro-batches may be as far off, and besides rounds once per
addition: K additions of unit roundoff u are off by about √K u. For float64 itself there is nothing better to compare
with, so the error in float32 is brought down by the ratio of the two types' roundoffs.

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

HEADROOM_FLOAT64 = 32.0
"""The same brought down from float32: float64's kernels sum in other orders (3.4 times at most, over those draws). The
faults that this is to find are a million times larger."""

_ROUNDOFF_64 = torch.finfo(torch.float64).eps / 2
_FLOAT32_TO_FLOAT64 = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Gradients:
    """The gradients that are compared.

    Args:
        reference: The whole batch in float64.
        accumulated_float64: The micro-batches in float64.
        whole_float32: The whole batch in float32.
        whole: The whole batch in the working precision.
        accumulated: The micro-batches in the working precision.
        roundoff: Unit roundoff of the type that gradients accumulate in.
        num_micro_batches: K.
    """

    reference: Gradient
    accumulated_float64: Gradient
    whole_float32: Gradient
    whole: Gradient
    accumulated: Gradient
    roundoff: float
    num_micro_batches: int


def judge(gradients: Gradients) -> tuple[ParameterError, ...]:
    """The error of each parameter and its tolerance."""
    names = list(dict.fromkeys([*gradients.reference, *gradients.accumulated_float64]))
    sizes = {n: (gradients.reference.get(n, gradients.accumulated_float64.get(n))) for n in names}
    num_values = {name: tensor.numel() for name, tensor in sizes.items() if tensor is not None}
    norms = {name: _norm(gradients.reference, name) for name in names}
    own = {name: distance(gradients.whole, gradients.reference, name) for name in names}
    own_32 = {name: distance(gradients.whole_float32, gradients.reference, name) for name in names}
    errors = {name: distance(gradients.accumulated, gradients.reference, name) for name in names}
    errors_64 = {name: distance(gradients.accumulated_float64, gradients.reference, name) for name in names}
    total, total_own, total_32 = (math.hypot(*each.values()) for each in (norms, own, own_32))
    additions = math.sqrt(gradients.num_micro_batches)
    judged = []
    for name in names:
        share = math.sqrt(num_values[name] / sum(num_values.values()))
        noise = max(own[name], total_own * share)
        noise_64 = max(own_32[name], total_32 * share) * _FLOAT32_TO_FLOAT64
        # A gradient that is zero but for rounding is measured against what a gradient of its size typically is.
        unit = norms[name] if norms[name] > max(noise, own_32[name]) else max(total * share, norms[name])
        unit = unit or 1.0
        judged.append(
            ParameterError(
                name=name,
                num_values=num_values[name],
                norm=norms[name],
                error=errors[name] / unit,
                tolerance=HEADROOM * noise / unit + additions * gradients.roundoff,
                whole_error=own[name] / unit,
                error_float64=errors_64[name] / unit,
                tolerance_float64=HEADROOM_FLOAT64 * noise_64 / unit + additions * _ROUNDOFF_64,
            )
        )
    return tuple(judged)


def in_one_column(judged: Iterable[ParameterError]) -> tuple[ParameterError, ...]:
    """For a model in float64, which nothing more exact can be held against: both comparisons are the one in float64."""
    return tuple(replace(each, error=each.error_float64, tolerance=each.tolerance_float64) for each in judged)


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
