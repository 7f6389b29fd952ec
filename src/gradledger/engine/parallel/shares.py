"""Shares over ranks: each loss's part of the gradient of the whole effective batch, all ranks' samples together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gradledger.engine.record import Term
from gradledger.engine.shares import Shares, _one_factor
from gradledger.engine.weights import PER_WINDOW, UnitWeights, WeightTable
from gradledger.errors import UserError
from gradledger.ledger import Reduction


def weigh_own(
    table: WeightTable, micro_batches: Sequence[Any], num_samples: Sequence[int] | None
) -> dict[str, UnitWeights | Exception]:
    """A rank's weights in each unit; an error is kept for the backward that needs them, if there is one."""
    own: dict[str, UnitWeights | Exception] = {}
    for unit in table.units[:-1]:
        try:
            own[unit] = table.weigh(micro_batches, unit, num_samples)
        except Exception as error:
            own[unit] = error
    return own


class RankShares(Shares):
    """The coefficients of one rank's losses in a window of several ranks.

    Args:
        table: What each unit's weight is counted by.
        micro_batches: This rank's micro-batches, repeated ones at the end included.
        own: This rank's weights in each unit, without repeated micro-batches; an error where they cannot be counted.
        totals: The total in each unit over all ranks; NaN where a rank could not count.
        num_own: How many of the micro-batches are no repeats.
        num_ranks: The number of ranks.
    """

    def __init__(
        self,
        table: WeightTable,
        micro_batches: Sequence[Any],
        own: dict[str, UnitWeights | Exception],
        totals: dict[str, float],
        num_own: int,
        num_ranks: int,
    ) -> None:
        super().__init__(table, micro_batches)
        self._own = own
        self._agreed = totals
        self._num_own = num_own
        self._num_ranks = num_ranks
        self._settled: dict[str, float] | None = None
        self._late_reference = 1.0  # the same on all ranks, since their gradients are summed before the close

    def of_others(self, micro_batches: Sequence[Any], num_own: int, num_samples: Sequence[int] | None) -> RankShares:
        """The shares of other micro-batches of the same samples, of the same agreed totals."""
        own = weigh_own(self._table, micro_batches[:num_own], num_samples)
        return RankShares(self._table, micro_batches, own, self._agreed, num_own, self._num_ranks)

    def ahead(self, unit: str | None = None) -> UnitWeights:
        """This rank's weights, with the total over all ranks.

        Raises:
            UserError: There is no such unit, or some rank could not count it.
        """
        unit = unit or self._table.primary_unit
        known = self._ahead.get(unit)
        if known is None and unit in self._own:
            own = self._own[unit]
            if isinstance(own, Exception):
                raise own
            total = self._agreed[unit]
            if math.isnan(total):
                raise UserError(
                    f"another rank could not count its {unit} ahead of the forward: give weight= to backward"
                )
            weights = (*own.weights[: self._num_own], *[0.0] * (len(self._micro_batches) - self._num_own))
            known = self._ahead[unit] = UnitWeights(weights, total)
        return known or super().ahead(unit)

    def share(
        self, position: int, terms: Sequence[Term], weight: float | Tensor | None, per: str | None, reduction: Reduction
    ) -> Term:
        """The term that one loss is: nothing for a repeated micro-batch; the ranks share a term per window."""
        if weight is not None and position >= self._num_own:
            weight = 0.0
        term = super().share(position, terms, weight, per, reduction)
        return term._replace(coefficient=1.0 / self._num_ranks) if term.unit == PER_WINDOW else term

    def own_totals(self, terms: Sequence[Term]) -> dict[str, float]:
        """The weight, in each unit that was used, of this rank's micro-batches that took part."""
        used = self._used(terms)
        if self._late_weights:
            return super().totals(terms)
        return {unit: math.fsum(known.weights[at] for at in used) for unit, known in self._ahead.items()}

    def settle(self, totals: dict[str, float]) -> None:
        """Take over the totals of all ranks' micro-batches that took part."""
        self._settled = totals

    def is_weightless(self, terms: Sequence[Term]) -> bool:
        """Whether all ranks' losses are over no unit at all, and no term is per window."""
        has_weight = any(self.totals(terms).values())
        return not has_weight and not any(term.unit == PER_WINDOW for term in terms)

    def closing_factor(self, terms: Sequence[Term]) -> float | None:
        """What the reduced gradients must still be multiplied by; None for 1."""
        if self._settled is None:
            return None
        if self._late_weights:
            return self._late_factor(terms)
        if all(math.isclose(total, self._agreed[unit], rel_tol=1e-15) for unit, total in self._settled.items()):
            return None
        factors = {unit: self._agreed[unit] / total for unit, total in self._settled.items() if total > 0}
        if factors and any(term.unit == PER_WINDOW for term in terms):
            factors[PER_WINDOW] = 1.0
        return _one_factor(factors, "micro-batches without a backward were left out") if factors else None

    def totals(self, terms: Sequence[Term]) -> dict[str, float]:
        """The total weight over all ranks; before the close, what is known of it."""
        if self._settled is not None:
            return self._settled
        return {unit: known.total for unit, known in self._ahead.items()} or super().totals(terms)
