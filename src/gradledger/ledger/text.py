"""The short text form of a ledger: one letter an entry, ``Z B B B B U C S L``.

``V`` is the zeroing of a void window, ``s`` a skipped step. Where more than one account is in play, or the only one
has a name of its own, the account follows a colon: ``B:generator``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from gradledger.ledger.entries import DEFAULT_ACCOUNT, KINDS, Backward, Entry, Step, Zero


def to_text(entries: Iterable[Entry]) -> str:
    """The letters of the entries, separated by spaces."""
    return " ".join(
        entry.letter if entry.account == DEFAULT_ACCOUNT else f"{entry.letter}:{entry.account}" for entry in entries
    )


def from_text(text: str) -> list[Entry]:
    """Entries with running counters from their letters; the inverse of :func:`to_text` in all that text can hold.

    Raises:
        ValueError: A letter stands for no kind of entry.

    Example:
        >>> [entry.micro_batch for entry in from_text("Z B B S B")]
        [0, 1, 2, 2, 3]
    """
    micro_batches: Counter[str] = Counter()
    updates: Counter[str] = Counter()
    entries: list[Entry] = []
    for token in text.split():
        letter, _, account = token.partition(":")
        account = account or DEFAULT_ACCOUNT
        if letter not in _MAKERS:
            raise ValueError(f"{token[:40]!r} is no entry: the letters are {' '.join(sorted(_MAKERS))}")
        if letter == Backward.LETTER:
            micro_batches[account] += 1
        entry = _MAKERS[letter](account=account, micro_batch=micro_batches[account], update=updates[account])
        if isinstance(entry, Step) and not entry.skipped:
            updates[account] += 1
        entries.append(entry)
    return entries


def _void_zero(**common: Any) -> Entry:
    return Zero(void=True, **common)


def _skipped_step(**common: Any) -> Entry:
    return Step(skipped=True, **common)


_MAKERS: dict[str, Callable[..., Entry]] = {
    **{kind.LETTER: kind for kind in KINDS.values()},
    "V": _void_zero,
    "s": _skipped_step,
}
