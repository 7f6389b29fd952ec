"""The gradient scaler: unscaling, steps that it takes or refuses, its update."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gradledger.auditor.reading.locations import user_location
from gradledger.auditor.recording.account import Account
from gradledger.auditor.recording.by_hand import ByHand
from gradledger.auditor.recording.journal import Journal
from gradledger.auditor.recording.registry import Registry
from gradledger.auditor.recording.state import ThreadState
from gradledger.ledger import ScalerUpdate, Step, Unscale


class Scalers:
    """Around the calls of every gradient scaler that is switched on."""

    def __init__(self, registry: Registry, journal: Journal, by_hand: ByHand, local: ThreadState) -> None:
        self._accounts: dict[int, dict[str, Account]] = {}
        self._registry = registry
        self._journal = journal
        self._by_hand = by_hand
        self._local = local

    @contextmanager
    def unscaling(self, scaler: Any, optimizer: Any) -> Iterator[None]:
        """Around ``scaler.unscale_``."""
        account = self._registry.account_of(optimizer)
        if account is None:
            yield
            return
        with self._registry.turns:
            self._by_hand.settle(account)
        with self._local.quietly():
            yield
        with self._registry.turns:
            account.look()
            self._seen_by(scaler, account)
            self._journal.add(account, Unscale(location=user_location()))

    @contextmanager
    def stepping(self, scaler: Any, optimizer: Any) -> Iterator[None]:
        """Around ``scaler.step``; where no optimizer steps inside, it was refused."""
        local = self._local
        outer, local.scaler, local.scaler_stepped = local.scaler, scaler, False
        try:
            yield
        finally:
            local.scaler = outer
        account = self._registry.account_of(optimizer)
        if account is None:
            return
        with self._registry.turns:
            self._seen_by(scaler, account)
            if not local.scaler_stepped:
                self._journal.add(account, Step(location=user_location(), skipped=True, scaler=True))
                account.close_window()

    def updated(self, scaler: Any) -> None:
        """``scaler.update``: told to the accounts that it unscaled or stepped, and to those with an open window."""
        with self._registry.turns:
            concerned = self._accounts.pop(id(scaler), {})
            concerned |= {key: each for key, each in self._registry.accounts.items() if each.is_open}
            for account in concerned.values():
                self._journal.add(account, ScalerUpdate(location=user_location()))

    def _seen_by(self, scaler: Any, account: Account) -> None:
        self._accounts.setdefault(id(scaler), {})[account.key] = account
