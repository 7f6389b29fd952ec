"""A tensor that came from weights and another tensor by a few operations outside autograd."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Blend:
    """``of_weights × weights + of_other × some other tensor``.

    Args:
        parameter: Which weights; None: no weights are in it.
        of_weights: Their coefficient.
        of_other: The other tensor's coefficient.
    """

    parameter: Any
    of_weights: float
    of_other: float

    def times(self, factor: float) -> Blend:
        """All of it multiplied."""
        return Blend(self.parameter, self.of_weights * factor, self.of_other * factor)

    def plus(self, other: Blend) -> Blend | None:
        """The sum; None where two different weights are in it."""
        if self.parameter is not None and other.parameter is not None and self.parameter is not other.parameter:
            return None
        parameter = other.parameter if self.parameter is None else self.parameter
        return Blend(parameter, self.of_weights + other.of_weights, self.of_other + other.of_other)

    @property
    def is_average(self) -> bool:
        """Weights and something else, with coefficients that add up to one."""
        return 0 < self.of_weights < 1 and math.isclose(self.of_weights + self.of_other, 1.0, rel_tol=1e-6)


OTHER = Blend(None, 0.0, 1.0)
"""A tensor that has no weights in it."""
