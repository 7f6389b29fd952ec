"""A rank's side of the ledger: its own part of the window, and the reduction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from gradledger.engine.record import WindowRecord
from gradledger.ledger import Backward, Entry, Sync


class RankRecord(WindowRecord):
    """What a window did on one rank.

    A rank's ledger balances by itself: scales are shares of the rank's own part of the window. The reduction then adds
    the ranks' parts, each by its part of the total weight.
    """

    rank = 0
    synced: frozenset[int] = frozenset()
    """The micro-batches whose backward was reduced."""
    parts: dict[str, float]
    """This rank's part of the total weight, in each unit."""

    @property
    def num_entries(self) -> int:
        """The number of entries that the block expands to."""
        return super().num_entries + len(self._last_terms())

    def entries(self) -> Iterator[Entry]:
        """The entries, with the rank, and a reduction after each backward that had one."""
        last_terms, term = self._last_terms(), -1
        for entry in super().entries():
            if isinstance(entry, Backward):
                term += 1
                part = self.parts.get(entry.unit, 1.0)
                scale = None if entry.scale is None or part == 0.0 else entry.scale / part
                yield replace(entry, rank=self.rank, scale=scale, synced=term in last_terms)
                if term in last_terms:
                    yield Sync(**self._place(entry))
            else:
                yield replace(entry, rank=self.rank)

    def _place(self, backward: Backward) -> dict[str, Any]:
        return {
            "account": backward.account,
            "micro_batch": backward.micro_batch,
            "update": backward.update,
            "rank": self.rank,
        }

    def _last_terms(self) -> set[int]:
        """The last backward of each micro-batch that was reduced."""
        last = {term.position: at for at, term in enumerate(self.terms)}
        return {at for position, at in last.items() if position in self.synced}
