"""The entries of the running program, in order, before they are handed to the rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gradledger.auditor.recording.account import Account
from gradledger.auditor.recording.place import Place
from gradledger.auditor.recording.registry import Registry
from gradledger.ledger import Entry, Ledger


class Journal:
    """Entries as they come, their accounts by key.

    Args:
        registry: Gives the accounts their reported names.
        max_entries: Entries that are kept before ``on_full`` is called with a ledger of them.
        on_full: Takes the older part of a long ledger.
    """

    def __init__(self, registry: Registry, max_entries: int, on_full: Callable[[Ledger], None] | None) -> None:
        self.entries: list[Entry] = []
        self.max_entries = max_entries
        self.place = Place()
        self._registry = registry
        self._on_full = on_full

    def add(self, account: Account, entry: Entry) -> None:
        """Append an entry with the account's counters."""
        # The entry is this call's own, so its counters are set in place: `replace` would build it a second time.
        object.__setattr__(entry, "account", account.key)
        object.__setattr__(entry, "micro_batch", account.num_micro_batches)
        object.__setattr__(entry, "update", account.num_updates)
        account.is_used = True
        self.entries.append(entry)

    def hand_over_when_full(self) -> None:
        """Part with what was recorded so far where it has become long."""
        if len(self.entries) >= self.max_entries and self._on_full is not None:
            older, self.entries = self.entries, []
            self._on_full(self._ledger_of(older))

    def ledger(self) -> Ledger:
        """What was recorded so far, accounts by their names."""
        return self._ledger_of(self.entries)

    def _ledger_of(self, entries: list[Entry]) -> Ledger:
        names = self._registry.names()
        return Ledger(replace(entry, account=names[entry.account], rank=self.place.rank) for entry in entries)
