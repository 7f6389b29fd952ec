"""Clipping, by norm or by value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from gradledger.auditor.reading.locations import user_location
from gradledger.auditor.recording.account import Account
from gradledger.auditor.recording.by_hand import ByHand
from gradledger.auditor.recording.journal import Journal
from gradledger.auditor.recording.registry import Registry
from gradledger.auditor.recording.state import ThreadState
from gradledger.ledger import Clip


class Clips:
    """Around calls that clip."""

    def __init__(self, registry: Registry, journal: Journal, by_hand: ByHand, local: ThreadState) -> None:
        self._registry = registry
        self._journal = journal
        self._by_hand = by_hand
        self._local = local

    @contextmanager
    def around(self, parameters: list[Any], entry: Clip) -> Iterator[None]:
        """Around a call that clips the gradients of these parameters; with an infinite limit it only reads the norm."""
        with self._registry.turns:
            accounts = self._registry.accounts_of(parameters)
            for account in accounts:
                self._by_hand.settle(account)
        place = user_location()
        with self._local.quietly():
            yield
        with self._registry.turns:
            for account in _most_concerned(accounts) if entry.limit != math.inf else ():
                self._journal.add(account, replace(entry, location=place))
            for account in accounts:
                account.look()


def _most_concerned(accounts: list[Account]) -> list[Account]:
    """Those with a gradient that no step has used, where there are any; else those with any; else all."""
    fresh = [account for account in accounts if account.is_open and account.holds_gradient]
    return fresh or [account for account in accounts if account.holds_gradient] or accounts
