"""Evaluations: a model put into evaluation mode and back, with no backward between."""

from __future__ import annotations

from typing import Any

from gradledger.auditor.reading.locations import user_location
from gradledger.auditor.recording.account import Account
from gradledger.auditor.recording.journal import Journal
from gradledger.auditor.recording.registry import Registry
from gradledger.ledger import Evaluate


class Evaluations:
    """Watches the mode of modules whose parameters are owned."""

    def __init__(self, registry: Registry, journal: Journal) -> None:
        self._registry = registry
        self._journal = journal

    def mode_set(self, module: Any, *, training: bool) -> None:
        """``module.train()`` or ``module.eval()`` was called."""
        with self._registry.turns:
            for account in self._registry.accounts_of(module.parameters()):
                if training:
                    self.ended(account)
                elif account.evaluated_at is None:
                    account.evaluated_at = user_location()

    def ended(self, account: Account) -> None:
        """Training goes on, or the program ends."""
        if account.evaluated_at is not None:
            self._journal.add(account, Evaluate(location=account.evaluated_at))
            account.evaluated_at = None
