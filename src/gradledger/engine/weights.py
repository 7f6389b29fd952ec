"""Weights: how many units (samples, tokens) the loss of a micro-batch is a mean over."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradledger.engine.batches.nesting import count_samples
from gradledger.engine.batches.splitting import Samples
from gradledger.engine.record import fetch_numbers
from gradledger.errors import UserError

Weight = float | Callable[[Any], float | Tensor]
"""One number for every micro-batch, or a callable that counts a micro-batch's units."""

SAMPLES = "samples"
PER_MICRO_BATCH = "micro-batch"
PER_WINDOW = "window"


@dataclass(frozen=True, slots=True)
class UnitWeights:
    """The weights of a window's micro-batches in one unit, and their total."""

    weights: tuple[float, ...]
    total: float


class WeightTable:
    """What each unit's weight is counted by.

    Args:
        weight: None counts samples; a number or a callable names one unit; a mapping names several. A callable may
            carry the name of its unit in an attribute ``unit``.

    Raises:
        UserError: The mapping is empty, or an entry is neither a number nor a callable.
    """

    def __init__(self, weight: Weight | Mapping[str, Weight] | None) -> None:
        if isinstance(weight, Mapping):
            counters: dict[str, Weight | None] = dict(weight)
        else:
            counters = {getattr(weight, "unit", SAMPLES): weight}
        if not counters:
            raise UserError("weight={} names no unit: give at least one, such as {'tokens': gradledger.tokens()}")
        for counter in counters.values():
            if counter is not None and not callable(counter):
                check_weight(counter)
        counters.setdefault(PER_MICRO_BATCH, 1.0)
        self._counters = counters
        self.primary_unit = next(iter(counters))
        self.units = (*counters, PER_WINDOW)

    @property
    def counts_samples(self) -> bool:
        """Whether the first unit is a plain count of samples."""
        return self._counters[self.primary_unit] is None

    def known_samples(self, pieces: Sequence[Samples]) -> list[int] | None:
        """The pieces' numbers of samples, where it is samples that are counted."""
        return [piece.num_samples for piece in pieces] if self.counts_samples else None

    def weigh(self, micro_batches: Sequence[Any], unit: str, num_samples: Sequence[int] | None = None) -> UnitWeights:
        """The weights of a window's micro-batches in one unit.

        Args:
            micro_batches: The window's micro-batches.
            unit: One of :attr:`units`.
            num_samples: The number of samples of each, where it is known.

        Raises:
            UserError: A weight is no number, negative or not finite, or samples cannot be counted.
        """
        counter = self._counters[unit]
        if counter is None:
            weights = tuple(map(float, num_samples or [count_samples(micro_batch) for micro_batch in micro_batches]))
        elif callable(counter):
            weights = tuple(map(check_weight, fetched([counter(micro_batch) for micro_batch in micro_batches])))
        else:
            weights = (float(counter),) * len(micro_batches)
        return UnitWeights(weights, math.fsum(weights))


def fetched(values: Sequence[Any]) -> list[Any]:
    """The values, with numbers that are on a device brought from there all at once."""
    there = [at for at, each in enumerate(values) if isinstance(each, Tensor) and each.numel() == 1 and not each.is_cpu]
    found = dict(zip(there, fetch_numbers([values[at] for at in there]), strict=True))
    return [found.get(at, value) for at, value in enumerate(values)]


def check_weight(weight: Any) -> float:
    """A weight as a float.

    Raises:
        UserError: It is no number, is negative or not finite.
    """
    if isinstance(weight, Tensor) and weight.numel() == 1:
        weight = weight.item()
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise UserError(f"a weight must be a number of units (samples, tokens), not {weight!r}")
    if not math.isfinite(weight):
        raise UserError(f"a micro-batch has the non-finite weight {weight}: the window has no total to divide by")
    if weight < 0:
        raise UserError(f"a micro-batch has the weight {weight}: a weight counts units and cannot be negative")
    return float(weight)
