"""Reductions of gradients over ranks: by DistributedDataParallel, by FSDP, by hand."""

from __future__ import annotations

import weakref
from typing import Any

from gradledger.auditor.reading.locations import user_location
from gradledger.auditor.recording.account import Account
from gradledger.auditor.recording.by_hand import ByHand
from gradledger.auditor.recording.journal import Journal
from gradledger.auditor.recording.place import place_in
from gradledger.auditor.recording.registry import Registry
from gradledger.auditor.recording.state import Call, ThreadState
from gradledger.ledger import Sync


class Reductions:
    """Which backward calls reduce, and which gradients were reduced without one."""

    def __init__(self, registry: Registry, journal: Journal, by_hand: ByHand, local: ThreadState) -> None:
        self._modules: weakref.WeakKeyDictionary[Any, tuple[bool, frozenset[int]]] = weakref.WeakKeyDictionary()
        self._registry = registry
        self._journal = journal
        self._by_hand = by_hand
        self._local = local

    def will_sync(self, module: Any, synced: bool) -> None:
        """A forward of DistributedDataParallel: the backward after it reduces, or does not."""
        with self._registry.turns:
            self._find_place(module.process_group)
            known = self._modules.get(module)
            parameters = known[1] if known else frozenset(id(p) for p in module.parameters())
            self._modules[module] = (synced, parameters)

    def _find_place(self, group: Any) -> None:
        if self._journal.place.num_ranks == 1:
            self._journal.place = place_in(group)

    def shard_group_done(self, parameters: list[Any], reduced: bool, group: Any) -> None:
        """FSDP has dealt with a group's gradients: reduced them over some ranks, or kept them for a later backward."""
        if group is not None:
            self._find_place(group)
        call = self._local.call
        if call is not None:
            call.sharded.update((id(parameter), reduced) for parameter in parameters)

    def is_synced(self, account: Account, call: Call) -> bool | None:
        """Whether a call reduced the account's gradients; None where no ranks are involved."""
        if call.sharded:
            flags = [reduced for identity, reduced in call.sharded.items() if identity in account.positions]
            return any(flags) if flags else None
        flags = [
            synced for synced, parameters in self._modules.values() if not parameters.isdisjoint(account.positions)
        ]
        return any(flags) if flags else None

    def reduced(self, tensor: Any) -> None:
        """A tensor was reduced over ranks by hand."""
        with self._registry.turns:
            entry = self._registry.gradient_of(tensor)
            if entry is None:
                return
            account = entry[0]
            last = self._journal.entries[-1] if self._journal.entries else None
            if not (isinstance(last, Sync) and last.account == account.key):
                self._by_hand.settle(account)
                self._journal.add(account, Sync(location=user_location()))
