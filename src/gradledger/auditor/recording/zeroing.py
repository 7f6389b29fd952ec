"""Zeroing: by a call of ``zero_grad``, and what any zeroing is recorded as."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gradledger.auditor.reading.locations import inside_engine, user_location
from gradledger.auditor.recording.account import Account, Occasion
from gradledger.auditor.recording.epochs import EpochWatch
from gradledger.auditor.recording.journal import Journal
from gradledger.auditor.recording.registry import Registry
from gradledger.auditor.recording.state import ThreadState
from gradledger.ledger import Zero

if TYPE_CHECKING:
    from gradledger.auditor.recording.by_hand import ByHand


class Zeros:
    """Writes zeroings down in the place where they belong."""

    def __init__(self, journal: Journal, epochs: EpochWatch, local: ThreadState) -> None:
        self._journal = journal
        self._epochs = epochs
        self._local = local

    def occasion(self, account: Account) -> Occasion:
        """What can only be known while gradients are being zeroed."""
        exception = sys.exc_info()[1]
        is_failure = exception is not None and not isinstance(exception, StopIteration)
        given_up = inside_engine() or (is_failure and id(exception) != account.handled_exception)
        return Occasion(user_location(), self._epochs.has_left_loop(account), given_up)

    def add(self, account: Account, occasion: Occasion, *, partial: bool) -> None:
        """Record a zeroing; inside a step it belongs after the step, inside a closure it is on purpose."""
        running = self._local.step_of(account)
        given_up = account.is_open and (occasion.given_up or account.weights_changed())
        void = bool(running and running.has_closure) or given_up
        entry = Zero(location=occasion.location, partial=partial, void=void)
        if running is not None and not running.has_closure and not partial:
            running.zeros.append(replace(entry, void=False))
        else:
            self._epochs.before_zero(account, occasion.left_loop)
            self._journal.add(account, entry)


class ZeroCalls:
    """Around calls of ``optimizer.zero_grad`` and ``model.zero_grad``."""

    def __init__(self, registry: Registry, zeros: Zeros, by_hand: ByHand, local: ThreadState) -> None:
        self._registry = registry
        self._zeros = zeros
        self._by_hand = by_hand
        self._local = local

    @contextmanager
    def around(self, parameters: Iterable[Any]) -> Iterator[None]:
        """Around a call that zeroes the gradients of these parameters."""
        parameters = list(parameters)
        with self._registry.turns:
            accounts = self._registry.accounts_of(parameters)
            for account in accounts:
                self._by_hand.settle(account)
            occasions = [self._zeros.occasion(account) for account in accounts]
        with self._local.quietly():
            yield
        zeroed = {id(parameter) for parameter in parameters}
        with self._registry.turns:
            for account, occasion in zip(accounts, occasions, strict=True):
                touched = [i for i, p in enumerate(account.parameters) if id(p) in zeroed]
                had = any(account.held[i] for i in touched)
                for i in touched:
                    account.held[i] = False
                account.look()
                if had or (touched and len(touched) == len(account.parameters)):
                    self._zeros.add(account, occasion, partial=account.holds_gradient)
