"""The ledger itself: an append-only sequence of entries with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

from gradledger.ledger.entries import Entry
from gradledger.ledger.text import to_text
from gradledger.ledger.windows import Window, windows_of


class EntryBlock(Protocol):
    """A group of entries that is written down when somebody reads it.

    A training engine appends one block per window, so that keeping the ledger costs one append and no numbers
    are fetched from a device until they are looked at.
    """

    @property
    def num_entries(self) -> int:
        """How many entries it expands to."""
        ...

    def entries(self) -> Iterable[Entry]:
        """The entries of the block, ``num_entries`` of them, in order."""
        ...


class _Written:
    """Entries that are already written down, in the shape of a block."""

    __slots__ = ("_entries", "num_entries")

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self._entries = entries
        self.num_entries = len(entries)

    def entries(self) -> tuple[Entry, ...]:
        return self._entries


class Ledger:
    """What happened to the gradients of one process, in order.

    Args:
        entries: Entries to begin with.
        max_entries: The oldest entries beyond this number are let go. None keeps all of them.

    Example:
        >>> from gradledger.ledger import Backward, Ledger, Step, Zero
        >>> ledger = Ledger([Zero(), Backward(micro_batch=1), Backward(micro_batch=2), Step(micro_batch=2)])
        >>> ledger.text()
        'Z B B S'
        >>> [len(window.backwards) for window in ledger.windows()]
        [2]
    """

    def __init__(self, entries: Iterable[Entry] = (), *, max_entries: int | None = None) -> None:
        if max_entries is not None and max_entries < 1:
            raise ValueError(f"{max_entries=} must be at least 1, or None to keep every entry")
        self._blocks: deque[EntryBlock] = deque()
        self._max_entries = max_entries
        self._num_recorded = 0
        self._num_held = 0
        self.extend(entries)

    @property
    def num_recorded(self) -> int:
        """Entries recorded since the start, those let go included."""
        return self._num_recorded

    def append(self, entry: Entry) -> None:
        """Record one entry."""
        self.append_block(_Written((entry,)))

    def extend(self, entries: Iterable[Entry]) -> None:
        """Record several entries."""
        for entry in entries:
            self.append(entry)

    def append_block(self, block: EntryBlock) -> None:
        """Record a group of entries that is expanded when it is read."""
        self._blocks.append(block)
        self._num_recorded += block.num_entries
        self._num_held += block.num_entries
        if self._max_entries is not None:
            while self._num_held > self._max_entries and len(self._blocks) > 1:
                self._num_held -= self._blocks.popleft().num_entries

    def since(self, index: int) -> list[Entry]:
        """The entries recorded after the first ``index`` ones.

        Raises:
            LookupError: Some of them were already let go.
        """
        first_held = self._num_recorded - self._num_held
        if index < first_held:
            raise LookupError(
                f"entries {index} to {first_held - 1} were let go (this ledger holds {self._max_entries}): "
                "read it more often, or raise max_entries"
            )
        wanted = self._num_recorded - index
        blocks: list[EntryBlock] = []
        num_entries = 0
        for block in reversed(self._blocks):
            if num_entries >= wanted:
                break
            blocks.append(block)
            num_entries += block.num_entries
        entries = (entry for block in reversed(blocks) for entry in block.entries())
        return list(islice(entries, num_entries - wanted, None))

    def __iter__(self) -> Iterator[Entry]:
        for block in tuple(self._blocks):
            yield from block.entries()

    def __len__(self) -> int:
        return self._num_held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # mutable

    @property
    def accounts(self) -> tuple[str, ...]:
        """The accounts that entries name, in order of appearance."""
        return tuple(dict.fromkeys(entry.account for entry in self))

    def windows(self, account: str | None = None) -> list[Window]:
        """The windows of one account, or of every account in turn."""
        return windows_of(self, account)

    def text(self) -> str:
        """The short text form, such as ``Z B B B B U C S L``."""
        return to_text(self)

    def __repr__(self) -> str:
        text = self.text()
        return f"Ledger({text if len(text) <= 120 else text[:57] + ' … ' + text[-57:]!r})"
