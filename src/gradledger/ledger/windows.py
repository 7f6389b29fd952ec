"""Windows: the entries of one account, cut at its steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gradledger.ledger.entries import Adjust, Backward, Entry, Step, Zero


@dataclass(frozen=True, slots=True)
class Window:
    """From the first backward after a step to the next step, of one account on one rank.

    Args:
        account: The account's name.
        index: Position among the account's windows on this rank, from 0.
        lead: Entries after the previous window's end and before the first backward: schedule, zero, marks.
        body: From the first backward to the step (or to the zeroing that voids the window), both included.
    """

    account: str
    index: int
    lead: tuple[Entry, ...]
    body: tuple[Entry, ...]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Lead and body."""
        return self.lead + self.body

    @property
    def backwards(self) -> tuple[Backward, ...]:
        """The backward passes of the window, in order."""
        return tuple(entry for entry in self.body if isinstance(entry, Backward))

    @property
    def step(self) -> Step | None:
        """The step that closed the window, skipped or not; None where it is open or void."""
        last = self.body[-1] if self.body else None
        return last if isinstance(last, Step) else None

    @property
    def is_void(self) -> bool:
        """The window was given up on purpose."""
        last = self.body[-1] if self.body else None
        return isinstance(last, Zero) and last.void

    @property
    def is_open(self) -> bool:
        """Backward passes happened and no step has consumed them yet."""
        return bool(self.backwards) and self.step is None and not self.is_void

    @property
    def consumed(self) -> tuple[Backward, ...]:
        """The backward passes whose gradients were still there at the end: those after the last full zeroing."""
        kept: list[Backward] = []
        for entry in self.body:
            if isinstance(entry, Zero) and not entry.partial:
                kept.clear()
            elif isinstance(entry, Backward):
                kept.append(entry)
        return tuple(kept)

    @property
    def begins_by_hand(self) -> bool:
        """Gradients were put there before the first backward, such as those of an open window that was saved."""
        for entry in reversed(self.lead):
            if isinstance(entry, Zero) and not entry.partial:
                return False
            if isinstance(entry, Adjust) and entry.factor is None:
                return True
        return False


def windows_of(entries: Iterable[Entry], account: str | None = None) -> list[Window]:
    """Cut entries into windows, per account and rank, in order of first appearance.

    What follows the last window (a schedule, a zeroing) is returned as one more window with an empty body, so that
    no entry is lost: the windows' entries, joined, are the account's entries.
    """
    cutters: dict[tuple[int, str], _Cutter] = {}
    for entry in entries:
        if account is None or entry.account == account:
            cutters.setdefault((entry.rank, entry.account), _Cutter(entry.account)).add(entry)
    return [window for cutter in cutters.values() for window in cutter.finish()]


class _Cutter:
    def __init__(self, account: str) -> None:
        self.account = account
        self.windows: list[Window] = []
        self.lead: list[Entry] = []
        self.body: list[Entry] = []

    def add(self, entry: Entry) -> None:
        opens = isinstance(entry, Backward | Step)
        (self.body if self.body or opens else self.lead).append(entry)
        if isinstance(entry, Step) or (self.body and isinstance(entry, Zero) and entry.void):
            self._cut()

    def finish(self) -> list[Window]:
        if self.lead or self.body:
            self._cut()
        return self.windows

    def _cut(self) -> None:
        self.windows.append(Window(self.account, len(self.windows), tuple(self.lead), tuple(self.body)))
        self.lead, self.body = [], []
