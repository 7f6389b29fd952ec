"""Running averages of the weights: by torch's ``AveragedModel``, or by arithmetic of the program's own.

An average by hand is known by what it computes, however it is spelled: ``c × weights + (1 - c) × something else``, with
a number c between 0 and 1. So each tensor that came from a few operations outside autograd is known as such a *blend*
until it becomes an average or is used for something else.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch

from gradledger.auditor.reading.locations import user_location
from gradledger.auditor.recording.account import Account
from gradledger.auditor.recording.blend import OTHER, Blend
from gradledger.auditor.recording.journal import Journal
from gradledger.auditor.recording.registry import Registry
from gradledger.auditor.recording.state import ThreadState
from gradledger.ledger import Average

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_MAX_BLENDS = 4096


class Averages:
    """Averages of the weights, and the arithmetic that leads to them."""

    def __init__(self, registry: Registry, journal: Journal, local: ThreadState) -> None:
        self._registry = registry
        self._journal = journal
        self._local = local

    def advanced(self, parameters: Iterable[Any]) -> None:
        """An average took in all of these weights."""
        with self._registry.turns:
            for account in self._registry.accounts_of(parameters):
                self._journal.add(account, Average(location=user_location()))

    def scaled(self, result: Any, tensor: Any, factor: Any) -> None:
        """``result`` is a tensor times a number; it may be the tensor itself, about to be multiplied in place."""
        if isinstance(factor, int | float) and type(tensor) in _PLAIN and not self._is_kept(result):
            self._set(result, (self._blend_of(tensor) or OTHER).times(factor), in_place=result is tensor)

    def combined(self, result: Any, left: Any, right: Any, of_left: float, of_right: Any) -> None:
        """``result`` is ``of_left × left + of_right × right``, or ``left``, about to become it in place."""
        if type(left) not in _PLAIN or type(right) not in _PLAIN or self._is_kept(result):
            return
        first, second = self._blend_of(left), self._blend_of(right)
        if (first is None and second is None) or not isinstance(of_right, int | float):
            return
        blend = (first or OTHER).times(of_left).plus((second or OTHER).times(of_right))
        if blend is not None and blend.is_average:
            self._advance(blend.parameter)
            blend = None
        self._set(result, blend, in_place=result is left)

    def _is_kept(self, result: Any) -> bool:
        """The result is a gradient or the weights themselves: no average is kept there."""
        return self._registry.gradient_of(result) is not None or self._weights(result) is not None

    def _blend_of(self, tensor: torch.Tensor) -> Blend | None:
        """What a tensor is known as; None: nothing with weights, and not multiplied by a number either."""
        known = self._local.blends.get(id(tensor))
        if known is not None:
            reference, version, blend = known
            if reference() is tensor and version == tensor._version:
                return blend
        parameter = self._weights(tensor)
        return None if parameter is None else Blend(parameter, 1.0, 0.0)

    def _weights(self, tensor: Any) -> Any:
        """The owned parameter that a tensor is, or shares its memory with."""
        if id(tensor) in self._registry.owners:
            return tensor
        return self._registry.parameter_at(tensor)

    def _set(self, tensor: Any, blend: Blend | None, *, in_place: bool) -> None:
        blends = self._local.blends
        if blend is None:
            blends.pop(id(tensor), None)
            return
        if len(blends) >= _MAX_BLENDS:
            blends.clear()
        blends[id(tensor)] = weakref.ref(tensor), tensor._version + in_place, blend

    def _advance(self, parameter: Any) -> None:
        """An average took in one parameter: the first of a turn is recorded, the others belong to it."""
        with self._registry.turns:
            place = user_location()
            for account, position in self._registry.owners.get(id(parameter), ()):
                self._note(account, position, place)

    def _note(self, account: Account, position: int, place: Any) -> None:
        if account.averaged_at != place or position in account.averaged:
            self._journal.add(account, Average(location=place))
            account.averaged_at = place
            account.averaged.clear()
        account.averaged.add(position)
