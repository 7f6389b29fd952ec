"""Leaving out a micro-batch that is not finite: its gradient is kept apart until it is known to be good."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradledger.engine.account import Account
from gradledger.engine.gradients import total_norm
from gradledger.engine.record import fetch_numbers


class Survivors:
    """Sums the gradients of finite micro-batches; the current micro-batch's own are in ``.grad``, apart from the sum.

    Costs one more set of gradients and one more pass over them per micro-batch. Whether a micro-batch is finite is
    decided on its device and fetched once, at the close.

    Args:
        account: The account whose gradients are summed.
        by_loss_only: Judge by the loss alone: under a gradient scaler an infinite gradient is the scaler's business.
    """

    def __init__(self, account: Account, *, by_loss_only: bool) -> None:
        self._account = account
        self._by_loss_only = by_loss_only
        self._sums: dict[Tensor, Tensor] = {}
        self._is_finite: dict[int, bool | Tensor] = {}

    def settle(self, position: int, losses: Sequence[float | Tensor]) -> None:
        """Add the current micro-batch's gradients to the sum, if they and its losses are finite."""
        gradients = self._account.gradients()
        if not losses:
            return
        is_finite = _are_finite(losses)
        if gradients and not self._by_loss_only:
            is_finite = _both(is_finite, _are_finite([total_norm(gradients)]))
        self._is_finite[position] = is_finite
        with torch.no_grad():
            for parameter in self._account.parameters:
                if parameter.grad is not None:
                    self._add(parameter, parameter.grad, is_finite)
        self._account.clear_gradients()
        self._account.unwatch()

    def finish(self) -> set[int]:
        """Put the sums back into ``.grad``. Returns the positions of the micro-batches that were left out."""
        for parameter, gradient in self._sums.items():
            parameter.grad = gradient
        self._fetch()
        return {position for position, is_finite in self._is_finite.items() if not is_finite}

    def _fetch(self) -> None:
        """Read the decisions that are still on a device, all at once."""
        there = {at: each for at, each in self._is_finite.items() if isinstance(each, Tensor)}
        numbers = fetch_numbers([each.float() for each in there.values()])
        self._is_finite.update(zip(there, map(bool, numbers), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The sums by the parameter's place in the account, and which micro-batches were finite."""
        self._fetch()
        places = {parameter: at for at, parameter in enumerate(self._account.parameters)}
        return {
            "sums": {places[parameter]: gradient for parameter, gradient in self._sums.items()},
            "is_finite": dict(self._is_finite),
        }

    def load_state_dict(self, sums: Mapping[Tensor, Tensor], is_finite: Mapping[int, bool]) -> None:
        """Go on from such sums, by parameter."""
        self._sums, self._is_finite = dict(sums), dict(is_finite)

    def _add(self, parameter: Tensor, gradient: Tensor, is_finite: bool | Tensor) -> None:
        if isinstance(is_finite, Tensor):
            gradient = torch.where(is_finite, gradient, 0.0)
        elif not is_finite:
            return
        held = self._sums.get(parameter)
        self._sums[parameter] = gradient if held is None else held.add_(gradient)


def _are_finite(values: Sequence[float | Tensor]) -> bool | Tensor:
    result: bool | Tensor = True
    for value in values:
        result = _both(result, torch.isfinite(value) if isinstance(value, Tensor) else math.isfinite(value))
    return result


def _both(one: bool | Tensor, other: bool | Tensor) -> bool | Tensor:
    return one & other  # a bool joins a tensor on whatever device it is
