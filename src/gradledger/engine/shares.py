"""Shares: the part of a window's gradient that each loss is, whether weights are known ahead or only afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradledger.engine.record import Term, fetch_numbers
from gradledger.engine.weights import PER_WINDOW, UnitWeights, WeightTable, check_weight
from gradledger.errors import UserError
from gradledger.ledger import Reduction


class Shares:
    """The coefficients of one window's losses.

    Ahead of the forward, each micro-batch's weight and their total are counted from the data, and a loss's coefficient
    is its final one. Where weights come with the losses (*late*), coefficients are relative to the first weight and
    one common factor is left for the close: what accumulates stays of the size of one gradient.

    Args:
        table: What each unit's weight is counted by.
        micro_batches: The window's micro-batches.
        num_samples: The number of samples of each, where it is known.
    """

    def __init__(
        self, table: WeightTable, micro_batches: Sequence[Any], num_samples: Sequence[int] | None = None
    ) -> None:
        self._table = table
        self._micro_batches = micro_batches
        self.num_samples = num_samples
        self._ahead: dict[str, UnitWeights] = {}
        self._late_weights: dict[str, dict[int, float | Tensor]] = {}
        self.left_out: set[int] = set()
        self._late_reference: float | None = None

    def ahead(self, unit: str | None = None) -> UnitWeights:
        """The weights of all micro-batches in one unit (None: the first), counted once.

        Raises:
            UserError: There is no such unit, or a micro-batch cannot be counted.
        """
        unit = unit or self._table.primary_unit
        known = self._ahead.get(unit)
        if known is None:
            if unit not in self._table.units:
                raise UserError(f"per={unit!r} is no unit of this accumulator: it has {', '.join(self._table.units)}")
            known = self._ahead[unit] = self._table.weigh(self._micro_batches, unit, self.num_samples)
        return known

    def share(
        self, position: int, terms: Sequence[Term], weight: float | Tensor | None, per: str | None, reduction: Reduction
    ) -> Term:
        """The term that one loss is, with its coefficient.

        Args:
            position: The current micro-batch's place in the window, from 0.
            terms: The window's terms so far.
            weight: The loss's units, where they come with it.
            per: The unit; None is the first.
            reduction: Whether the loss is a mean or a sum over its units.

        Raises:
            UserError: Weights are given for some losses and not for others, twice for one, or are out of range.
        """
        unit = per or self._table.primary_unit
        if weight is not None:
            return Term(position, self._late(position, terms, weight, unit, reduction), unit, weight, reduction)
        if self._late_weights:
            raise UserError("some backwards of this window gave weight= and this one does not: give it to all, or none")
        if per == PER_WINDOW:
            return Term(position, 1.0, unit, None, reduction)
        units = self.ahead(unit)
        own = units.weights[position]
        coefficient = 0.0 if own == 0.0 else (own if reduction == "mean" else 1.0) / units.total
        return Term(position, coefficient, unit, own, reduction)

    def _late(
        self, position: int, terms: Sequence[Term], weight: float | Tensor, unit: str, reduction: Reduction
    ) -> float | Tensor:
        if terms and not self._late_weights:
            raise UserError(
                "earlier backwards of this window gave no weight= and this one does: give it to all, or none"
            )
        weights = self._late_weights.setdefault(unit, {})
        if position in weights:
            raise UserError(
                f"micro-batch {position} of the window has two backwards with weight= for {unit!r}: add the losses "
                "first, or give each term its own per="
            )
        if isinstance(weight, Tensor) and weight.device.type != "cpu":  # stays there: no host sync in the window
            own = weight.detach()
            weights[position] = own
            self._late_reference = 1.0
            return own if reduction == "mean" else (own > 0).to(own.dtype)
        value = check_weight(weight)
        weights[position] = value
        if value == 0.0:
            return 0.0
        self._late_reference = self._late_reference or value
        return (value if reduction == "mean" else 1.0) / self._late_reference

    def is_weightless(self, terms: Sequence[Term]) -> bool:
        """Whether the losses are over no unit at all."""
        if self._late_weights:
            return not any(self.totals(terms).values())
        return all(term.coefficient == 0.0 for term in terms)

    def leave_out(self, positions: set[int]) -> None:
        """Count micro-batches no longer, in any unit."""
        self.left_out = positions

    def closing_factor(self, terms: Sequence[Term]) -> float | None:
        """What the summed gradients must still be multiplied by; None for 1.

        Micro-batches without a backward are left out of the total.

        Raises:
            UserError: Terms with unlike denominators would each need a factor of their own.
        """
        if self._late_weights:
            return self._late_factor(terms)
        used = self._used(terms)
        if len(used) == len(self._micro_batches):
            return None
        factors = {
            unit: known.total / total
            for unit, known in self._ahead.items()
            if (total := math.fsum(known.weights[position] for position in used)) > 0
        }
        if factors and any(term.unit == PER_WINDOW for term in terms):
            factors[PER_WINDOW] = 1.0
        return _one_factor(factors, "micro-batches without a backward were left out") if factors else None

    def totals(self, terms: Sequence[Term]) -> dict[str, float]:
        """The total weight, in each unit that was used, of the micro-batches that took part."""
        used = self._used(terms)
        if self._late_weights:
            self._fetch_late_weights()
            return {
                unit: math.fsum(check_weight(weight) for at, weight in weights.items() if at in used)
                for unit, weights in self._late_weights.items()
            }
        return {
            unit: known.total if len(used) == len(known.weights) else math.fsum(known.weights[at] for at in used)
            for unit, known in self._ahead.items()
        }

    def _fetch_late_weights(self) -> None:
        """Read the weights that are still on a device, all at once, and keep the numbers."""
        places = [
            (weights, at)
            for weights in self._late_weights.values()
            for at, weight in weights.items()
            if isinstance(weight, Tensor) and not weight.is_cpu
        ]
        numbers = fetch_numbers([torch.as_tensor(weights[at]) for weights, at in places])
        for (weights, at), number in zip(places, numbers, strict=True):
            weights[at] = number

    def state_dict(self) -> dict[str, Any]:
        """What cannot be counted again from the micro-batches, and which units were counted, as plain data."""
        self._fetch_late_weights()
        late = {
            unit: {at: float(weight) for at, weight in weights.items()} for unit, weights in self._late_weights.items()
        }
        return {"units": list(self._ahead), "late": late, "reference": self._late_reference}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken, with the same micro-batches."""
        for unit in state["units"]:
            self.ahead(unit)
        self._late_weights = {unit: dict(weights) for unit, weights in state["late"].items()}
        self._late_reference = state["reference"]

    def total(self, terms: Sequence[Term]) -> float:
        """The total weight in the accumulator's first unit, or in the first one that was used."""
        if not terms:
            return self.ahead().total
        totals = self.totals(terms)
        return totals.get(self._table.primary_unit, next(iter(totals.values()), 0.0))

    def _used(self, terms: Sequence[Term]) -> set[int]:
        return {term.position for term in terms} - self.left_out

    def _late_factor(self, terms: Sequence[Term]) -> float | None:
        reference = self._late_reference
        totals = self.totals(terms).items()
        factors = {unit: reference / total for unit, total in totals if reference is not None and total > 0}
        return _one_factor(factors, "weights were given after the forward") if factors else None


def _one_factor(factors: dict[str, float], reason: str) -> float:
    factor = next(iter(factors.values()))
    if any(not math.isclose(other, factor, rel_tol=1e-12) for other in factors.values()):
        raise UserError(
            f"the terms of this window have unlike denominators ({', '.join(factors)}) and {reason}, so they "
            "can no longer be told apart: give weight={...} to the Accumulator, and a backward for each"
        )
    return factor
