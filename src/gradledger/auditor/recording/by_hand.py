"""Changes of gradients by hand: noted when they are made, recorded at the next event of their account."""

from __future__ import annotations

from typing import Any

from gradledger.auditor.reading.facts import is_zero
from gradledger.auditor.recording.account import Account, Change, ChangeKind, Occasion
from gradledger.auditor.recording.journal import Journal
from gradledger.auditor.recording.registry import Registry
from gradledger.auditor.recording.zeroing import Zeros
from gradledger.ledger import Adjust, Location, Zero


class ByHand:
    """What the program does to ``.grad`` other than by backward, ``zero_grad``, clipping or a step."""

    def __init__(self, registry: Registry, journal: Journal, zeros: Zeros) -> None:
        self._registry = registry
        self._turns = registry.turns
        self._journal = journal
        self._zeros = zeros

    def note_change(self, gradient: Any, kind: Any, factor: float | None) -> bool:
        """A tensor is about to be changed in place; whether it is a gradient, and the change was noted."""
        with self._turns:
            entry = self._registry.gradient_of(gradient)
            bumps = entry is not None
            if entry is None:
                alias = self._registry.aliases.get(id(gradient))
                if alias is None or alias[0] is not gradient or alias[3]:
                    return False
                entry = alias[1], alias[2]
            account, position = entry
            self._note(account, position, Change(kind, factor, self._first_location(account), bumps))
            return True

    def note_set(self, parameter: Any, value: Any) -> None:
        """``p.grad = value``."""
        with self._turns:
            for account, position in self._registry.owners.get(id(parameter), ()):
                if account.parameters[position] is not parameter or value is parameter.grad is not None:
                    continue  # `p.grad /= n` sets what it has just changed in place
                place = self._first_location(account)
                kind: ChangeKind = "zero" if value is None or is_zero(value) else "write"
                self._note(account, position, Change(kind, location=place, replaces=True))

    def note_alias(self, tensor: Any, alias: Any) -> None:
        """``tensor.data`` was read: changes through it do not show in the tensor's version."""
        with self._turns:
            entry = self._registry.gradient_of(tensor)
            if entry is not None:
                self._registry.aliases[id(alias)] = (alias, *entry, False)
                return
            for account, position in self._registry.owners.get(id(tensor), ()):
                self._registry.aliases[id(alias)] = (alias, account, position, True)

    def note_weights(self, parameter: Any) -> None:
        """``p.data`` was set."""
        with self._turns:
            self._registry.moved(parameter)
            for account, _ in self._registry.owners.get(id(parameter), ()):
                account.weights_touched = True

    def settle(self, account: Account) -> None:
        """Record what was done by hand to the account's gradients since its last event; the caller holds the turn."""
        for _, owner, _, _ in self._registry.aliases.values():
            if owner is account:
                self._settle_aliases(account)
                break
        first_change = account.first_change
        summary = account.settle()
        if summary is None:
            return
        self._registry.index_gradients(account)
        if summary.voided:
            self._journal.add(account, Zero(void=True, location=summary.location))
        elif summary.zeroed:
            # It is noticed late, when the program may be in another loop: what held when it was done was kept.
            occasion = first_change or Occasion(summary.location)
            self._zeros.add(account, occasion, partial=account.holds_gradient and not summary.adjusted)
        if summary.adjusted:
            self._journal.add(account, Adjust(factor=summary.factor, location=summary.location))

    def _settle_aliases(self, account: Account) -> None:
        """Changes made through ``.data``, which has a version counter of its own."""
        for key, (alias, owner, position, is_weight) in list(self._registry.aliases.items()):
            if owner is not account:
                continue
            noted = sum(not change.bumps_version for change in account.changes.get(position, ()))
            if is_weight:
                account.weights_touched = account.weights_touched or alias._version > 0
            elif alias._version > noted:
                account.changes.setdefault(position, []).append(Change("write"))
            del self._registry.aliases[key]

    def _note(self, account: Account, position: int, change: Change) -> None:
        account.changes.setdefault(position, []).append(change)

    def _first_location(self, account: Account) -> Location | None:
        if account.changes:
            return None
        account.first_change = self._zeros.occasion(account)
        return account.first_change.location
