"""Means over seeds, with what they may be off by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Estimate:
    """A mean over seeds.

    Args:
        mean: Over the seeds with a finite figure.
        half_width: Half the width of its 95 % confidence interval (Student's t); NaN below 2 seeds.
        num_seeds: Seeds with a finite figure.
    """

    mean: float
    half_width: float
    num_seeds: int

    @property
    def lower(self) -> float:
        """The interval's lower end; minus infinity where one seed says nothing about the others."""
        return self.mean - self.half_width if math.isfinite(self.half_width) else -math.inf

    @property
    def upper(self) -> float:
        """The interval's upper end."""
        return self.mean + self.half_width if math.isfinite(self.half_width) else math.inf


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % confidence interval of a figure over seeds.

    Example:
        >>> estimated = estimate([1.0, 2.0, 3.0])
        >>> estimated.mean, round(estimated.half_width, 4)
        (2.0, 2.4841)
    """
    finite = [value for value in values if math.isfinite(value)]
    count = len(finite)
    if not count:
        return Estimate(math.nan, math.nan, 0)
    mean = math.fsum(finite) / count
    if count == 1:
        return Estimate(mean, math.nan, 1)
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    variance = math.fsum((value - mean) ** 2 for value in finite) / (count - 1)
    return Estimate(mean, float(stdtrit(count - 1, 0.975)) * math.sqrt(variance / count), count)
