"""Keeps what the machine sees happen to gradients, and writes it down as a ledger once all accounts are known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gradledger.ledger import (
    DEFAULT_ACCOUNT,
    Adjust,
    Backward,
    Clip,
    Entry,
    EpochEnd,
    EpochStart,
    Ledger,
    Location,
    Step,
    Zero,
)
from gradledger.lint.machine.values import Leaf, Optimizer

ROUND_WEIGHT = 4.0
"""The weight of every micro-batch whose size the source does not tell."""


@dataclass(slots=True)
class Event:
    """Something that happened, before it is known which accounts it touches.

    Args:
        kind: The class of the entry.
        optimizer: Its account, where it is one optimizer's doing.
        optimizers: The accounts that it surely concerns, beside those that hold a gradient which no step has used.
        leaves: The parameters it touches otherwise; None: every account.
        fields: The entry's own fields.
    """

    kind: type[Entry]
    location: Location | None
    optimizer: Optimizer | None = None
    leaves: frozenset[Leaf] | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    assumed: bool = False
    optimizers: tuple[Optimizer, ...] | None = None


class Book:
    """The events of one run of the machine."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.optimizers: list[Optimizer] = []
        self.unclear: list[str] = []
        self.guessed = False
        self._sweep: tuple[type[Entry], Location | None, set[Leaf], dict[str, Any]] | None = None

    def register(self, optimizer: Optimizer) -> None:
        """Open an account."""
        self.optimizers.append(optimizer)

    def record(self, event: Event) -> None:
        """Append an event."""
        self._close_sweep()
        self.events.append(event)

    def touch(self, kind: type[Entry], leaf: Leaf, location: Location | None, **fields: Any) -> None:
        """One parameter's gradient was changed by hand: a loop over parameters makes one entry, not one for each.

        Args:
            kind: Zero or Adjust.
            leaf: The parameter.
            location: Where.
            fields: The entry's fields; ``replaces``: what was there before is gone.
        """
        sweep = self._sweep
        same = sweep is not None and (sweep[0], sweep[1], sweep[3]) == (kind, location, fields)
        if sweep is not None and same and leaf not in sweep[2]:
            sweep[2].add(leaf)
            return
        self._close_sweep()
        self._sweep = (kind, location, {leaf}, fields)

    def not_in_vain(self, call: int) -> None:
        """The graph that a backward call kept was gone through again, though not by a backward."""
        for event in self.events:
            if event.kind is Backward and event.fields.get("call") == call:
                event.fields["retained"] = False

    def mark(self) -> int:
        """The position of what happens next."""
        self._close_sweep()
        return len(self.events)

    @property
    def num_steps(self) -> int:
        """Steps so far."""
        return sum(event.kind is Step for event in self.events)

    def frame_epoch(self, start: int) -> None:
        """A loop ended: where it held both backward passes and steps, and no epoch of its own, it was one."""
        kinds = {event.kind for event in self.events[start:]}
        if {Backward, Step} <= kinds and EpochStart not in kinds:
            self.events.insert(start, Event(EpochStart, None))
            self.events.append(Event(EpochEnd, None))

    def _close_sweep(self) -> None:
        if self._sweep is not None:
            kind, location, leaves, fields = self._sweep
            self._sweep = None
            if fields.pop("replaces", False):
                self.events.append(Event(Zero, location, leaves=frozenset(leaves), fields={"partial": False}))
            self.events.append(Event(kind, location, leaves=frozenset(leaves), fields=fields))

    def ledger(self) -> Ledger:
        """What happened, as entries of each account."""
        self._close_sweep()
        return Ledger(_Writer(self).entries())


class _Writer:
    def __init__(self, book: Book) -> None:
        self.book = book
        self.names = _account_names(book.optimizers)
        self.owners = list({name: optimizer.leaves for optimizer, name in self.names.items()}.items())
        backwards = [event.leaves or frozenset() for event in book.events if event.kind is Backward]
        self.trained = frozenset[Leaf]().union(*backwards)
        self.all_owned = [leaf for _, leaves in self.owners for leaf in leaves or []]
        self.received: set[Leaf] = set()
        self.lines: dict[str, set[Location | None]] = {}
        graphs_known = all(event.leaves is not None for event in book.events if event.kind is Backward)
        owners_known = all(leaves is not None for _, leaves in self.owners)
        self.certain = graphs_known and owners_known and not book.guessed
        self.micro_batches: dict[str, int] = dict.fromkeys(self.names.values(), 0)
        self.updates: dict[str, int] = dict.fromkeys(self.names.values(), 0)
        self.assumes = any(event.assumed for event in book.events)

    def entries(self) -> Iterable[Entry]:
        for position, event in enumerate(self.book.events):
            accounts = self._accounts(event)
            if event.kind is Backward and not accounts:
                accounts = self._next_to_step(position, self._relatives(event))
            elif len(accounts) > 1 and event.kind is Backward and self._is_guessed(event):
                accounts = self._next_to_step(position, accounts)
            elif len(accounts) > 1 and event.kind is Clip:
                accounts = [pair for pair in accounts if self.lines.get(pair[0]) or self._surely_owns(pair[0], event)]
            for account, partial in accounts:
                yield self._write(event, account, partial)

    def _is_guessed(self, event: Event) -> bool:
        """It touches a model of which only the whole is known, not which of the accounts' parameters."""
        return event.leaves is None or any(leaf.is_guess and leaf not in self.all_owned for leaf in event.leaves)

    def _surely_owns(self, account: str, event: Event) -> bool:
        """Are parameters of the account, one by one, among those that the event touches?"""
        owned = next((leaves for name, leaves in self.owners if name == account), None)
        return owned is not None and not self._is_guessed(event)

    def _relatives(self, event: Event) -> list[tuple[str, bool]]:
        """Accounts of other parts of the same unknown model, which reaches its parameters by names of its own."""
        roots = {leaf.root for leaf in event.leaves or () if leaf.root.is_guess}
        return [(name, False) for name, leaves in self.owners if any(leaf.root in roots for leaf in leaves or ())]

    def _next_to_step(self, position: int, accounts: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
        """Those of the accounts that step next, before another backward pass: a loss is meant for its step."""
        stepping: set[str] = set()
        for event in self.book.events[position + 1 :]:
            if event.kind is Step and event.optimizer is not None:
                stepping.add(self.names.get(event.optimizer, DEFAULT_ACCOUNT))
            elif event.kind is Backward and stepping:
                break
        return [pair for pair in accounts if pair[0] in stepping] or accounts

    def _write(self, event: Event, account: str, partial: bool) -> Entry:
        fields = dict(event.fields)
        if event.kind is Backward:
            self._count(event, account)
            if self.assumes and fields.get("weight") is not None:
                fields["weight"] = ROUND_WEIGHT
            self._note_received(event, fields)
        if event.kind is Adjust:
            self.received |= event.leaves or frozenset()
        if event.kind is Step and self.certain:
            fields["num_missing"] = self._num_missing(account)
        if event.kind is Zero and partial:
            fields.setdefault("partial", True)
        update = self.updates.get(account, 0)
        if event.kind is Step:
            self.lines.pop(account, None)
            if not fields.get("skipped"):
                self.updates[account] = update + 1
        return event.kind(
            account=account,
            micro_batch=self.micro_batches.get(account, 0),
            update=update,
            location=event.location,
            **fields,
        )

    def _count(self, event: Event, account: str) -> None:
        """A line that comes again begins a new micro-batch, unless it goes through the same graph."""
        lines = self.lines.setdefault(account, set())
        if not lines or (event.location in lines and event.fields.get("reuses") is None):
            self.micro_batches[account] = self.micro_batches.get(account, 0) + 1
            lines.clear()
        lines.add(event.location)

    def _others(self, event: Event, own: str) -> list[tuple[str, bool]]:
        """Other accounts that share parameters with one that is zeroed."""
        touched = [(name, leaves) for name, leaves in self.owners if name != own and leaves]
        shared = event.leaves or frozenset()
        return [
            (name, self._is_part(shared, leaves)) for name, leaves in touched if leaves and _touches(shared, leaves)
        ]

    def _is_part(self, leaves: frozenset[Leaf], owned: list[Leaf]) -> bool:
        """Only some of the account's parameters; those that never receive a gradient do not count."""
        trained = [mine for mine in owned if _touches(self.trained, [mine])] or owned
        return not all(any(mine.is_within(leaf) for leaf in leaves) for mine in trained)

    def _note_received(self, event: Event, fields: dict[str, Any]) -> None:
        received = event.leaves or frozenset()
        self.received |= received
        if self.certain:
            known = [leaf for leaf in received if not leaf.is_guess]
            fields["num_unowned"] = sum(not _touches(frozenset({leaf}), self.all_owned) for leaf in known)

    def _num_missing(self, account: str) -> int:
        owned = next((leaves or [] for name, leaves in self.owners if name == account), [])
        received = frozenset(self.received)
        return sum(leaf.requires_grad and not leaf.is_guess and not _touches(received, [leaf]) for leaf in owned)

    def _accounts(self, event: Event) -> list[tuple[str, bool]]:
        if event.optimizer is not None:
            own = self.names.get(event.optimizer, DEFAULT_ACCOUNT)
            others = self._others(event, own) if event.kind is Zero and event.leaves else []
            return [(own, False), *others]
        if event.optimizers is not None:
            named = {self.names[optimizer] for optimizer in event.optimizers}
            return [(name, False) for name, _ in self.owners if name in named or self.lines.get(name)]
        if event.leaves is None:
            return [(name, False) for name, _ in self.owners] or [(DEFAULT_ACCOUNT, False)]
        return [
            (name, leaves is not None and event.kind in (Zero, Adjust) and self._is_part(event.leaves, leaves))
            for name, leaves in self.owners
            if leaves is None or event.kind is Clip or _touches(event.leaves, leaves)
            if event.kind is not Clip or leaves is None or _touches(event.leaves, leaves)
        ]


def _touches(leaves: frozenset[Leaf], owned: list[Leaf]) -> bool:
    return any(leaf.overlaps(mine) for leaf in leaves for mine in owned)


def _account_names(optimizers: list[Optimizer]) -> dict[Optimizer, str]:
    if len(optimizers) == 1:
        return {optimizers[0]: DEFAULT_ACCOUNT}
    names: dict[Optimizer, str] = {}
    taken: set[str] = set()
    known: dict[frozenset[Leaf], str] = {}
    for number, optimizer in enumerate(optimizers):
        owned = frozenset(optimizer.leaves or ())
        if owned and owned in known:
            names[optimizer] = known[owned]  # one wraps the other
            continue
        name = optimizer.name or f"optimizer-{number}"
        while name in taken:
            name += "'"
        taken.add(name)
        names[optimizer] = known[owned] = name
    return dict.fromkeys(names, DEFAULT_ACCOUNT) if len(taken) == 1 else names
