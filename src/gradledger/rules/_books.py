"""A ledger laid open for rules: its windows per account and rank, and questions that several rules ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from gradledger.ledger import (
    Adjust,
    Average,
    Backward,
    Clip,
    Entry,
    EpochEnd,
    EpochStart,
    Location,
    ScalerUpdate,
    Schedule,
    Step,
    Sync,
    Unscale,
    Window,
    Zero,
    windows_of,
)

_GRADIENT_KINDS = (Zero, Backward, Adjust, Sync, Unscale, Clip, Step, ScalerUpdate, Schedule, Average)


@dataclass(frozen=True, slots=True)
class Use:
    """A step consumed a backward call.

    Args:
        account: Whose step it was.
        position: The step's position in the whole ledger.
    """

    account: str
    position: int


class Series:
    """The windows of one account on one rank.

    Args:
        account: The account.
        entries: Its entries on this rank.
        positions: The position of each of them in the whole ledger.
    """

    def __init__(self, account: str, entries: Sequence[Entry], positions: Sequence[int]) -> None:
        self.account = account
        self.entries = tuple(entries)
        self.position_of = {id(entry): position for entry, position in zip(entries, positions, strict=True)}
        self.windows = windows_of(entries)

    @cached_property
    def closed(self) -> list[Window]:
        """The windows that an update closed and that consumed a backward."""
        return [window for window in self.windows if window.step and not window.step.skipped and window.consumed]

    @cached_property
    def last_step(self) -> Step | None:
        """The account's last step."""
        return next((entry for entry in reversed(self.entries) if isinstance(entry, Step)), None)

    @cached_property
    def usual_size(self) -> int:
        """The number of micro-batches that windows within one epoch hold most often, 0 where there is none."""
        sizes = Counter(num_micro_batches(window) for window in self.closed if not spans_epochs(window))
        return max(sizes, key=lambda size: (sizes[size], size), default=0)

    @cached_property
    def accumulates(self) -> bool:
        """Some window holds more than one micro-batch."""
        return any(num_micro_batches(window) > 1 for window in self.closed)

    @cached_property
    def training_lines(self) -> set[Location | None]:
        """The lines of the backward passes that steps consumed."""
        return {backward.location for window in self.closed for backward in window.consumed}


class Books:
    """A ledger with its windows cut once for all rules.

    Args:
        ledger: Entries in order.
        complete: The program came to its end: what is still open then, stays open.

    Example:
        >>> from gradledger.ledger import from_text
        >>> [len(series.windows) for series in Books(from_text("Z B B S Z B B S")).series]
        [2]
    """

    def __init__(self, ledger: Iterable[Entry], *, complete: bool = True) -> None:
        self.entries = tuple(ledger)
        self.complete = complete

    @cached_property
    def series(self) -> list[Series]:
        """One for each account and rank, in order of appearance."""
        groups: dict[tuple[int, str], tuple[list[Entry], list[int]]] = {}
        for position, entry in enumerate(self.entries):
            entries, positions = groups.setdefault((entry.rank, entry.account), ([], []))
            entries.append(entry)
            positions.append(position)
        return [Series(account, *group) for (_, account), group in groups.items()]

    @cached_property
    def uses(self) -> dict[tuple[int, int], list[Use]]:
        """The steps that consumed each backward call, by rank and call."""
        found: dict[tuple[int, int], list[Use]] = {}
        for series in self.series:
            for window in series.windows:
                step = window.step
                if step is None or step.skipped:
                    continue
                for backward in window.consumed:
                    if backward.call is not None:
                        use = Use(series.account, series.position_of[id(step)])
                        found.setdefault((backward.rank, backward.call), []).append(use)
        return found

    def used_by_others(self, backward: Backward) -> list[Use]:
        """The steps of other accounts that consumed the same backward call: it may have been meant for them."""
        if backward.call is None:
            return []
        uses = self.uses.get((backward.rank, backward.call), [])
        return [use for use in uses if use.account != backward.account]

    @cached_property
    def reused_calls(self) -> set[tuple[int, int]]:
        """Backward calls whose retained graph was gone through again."""
        return {(e.rank, e.reuses) for e in self.entries if isinstance(e, Backward) and e.reuses is not None}


def num_micro_batches(window: Window) -> int:
    """Distinct micro-batches that the step consumed; several terms of one micro-batch count once."""
    return len({backward.micro_batch for backward in window.consumed})


def spans_epochs(window: Window) -> bool:
    """An epoch ended between two backward passes of the window."""
    marked = False
    seen = False
    for entry in window.body:
        if isinstance(entry, Backward):
            if marked:
                return True
            seen = True
        elif seen and isinstance(entry, EpochStart | EpochEnd):
            marked = True
    return False


def between_backwards(window: Window, *kinds: type[Entry]) -> list[Entry]:
    """Entries of these kinds that stand between two backward passes of the window, the gradient still held."""
    waiting: list[Entry] = []
    found: list[Entry] = []
    held = False
    for entry in window.body:
        if isinstance(entry, Backward):
            found += waiting
            waiting = []
            held = True
        elif isinstance(entry, Zero) and not entry.partial:
            waiting, held = [], False
        elif held and isinstance(entry, kinds):
            waiting.append(entry)
    return found


def strip(entries: Sequence[Entry], *marked: Entry, limit: int = 24) -> str:
    """A strip of the ledger such as ``B B Z! B S``, the marked entries with an exclamation mark."""
    shown = [entry for entry in entries if isinstance(entry, _GRADIENT_KINDS)]
    letters = [entry.letter + ("!" if any(entry is mark for mark in marked) else "") for entry in shown]
    if len(letters) > limit:
        first = next((i for i, letter in enumerate(letters) if letter.endswith("!")), len(letters))
        start = max(0, min(first - limit // 2, len(letters) - limit))
        end = start + limit
        letters = ["…"] * (start > 0) + letters[start:end] + ["…"] * (end < len(letters))
    return " ".join(letters)


def plural(number: int, noun: str) -> str:
    """``1 update``, ``2 updates``, ``3 micro-batches``."""
    suffix = "" if number == 1 else "es" if noun.endswith(("ch", "s")) else "s"
    return f"{number} {noun}{suffix}"
