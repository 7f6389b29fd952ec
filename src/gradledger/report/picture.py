"""The ledger as people picture it: cups poured into a bucket, one bucket an update, emptied between.

A bucket is as high as the window's total weight. A cup is as high as what its micro-batch really adds: its weight where
the window balances. Losses that nobody divided make the bucket run over, losses divided twice leave it nearly empty.
What an earlier step already used and nobody zeroed lies at the bottom; what was zeroed away before a step is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gradledger.ledger import Backward, Entry, Ledger, Step, Window, Zero, balance_of

Outcome = Literal["step", "skipped", "void", "open"]
State = Literal["balanced", "scaled", "uneven", "stale", "short", "unknown"]
Cup = tuple[float, float]
"""Weight of a micro-batch and the height that it adds."""

MAX_BUCKETS = 10_000


@dataclass(frozen=True, slots=True)
class Bucket:
    """One window.

    Args:
        cups: The micro-batches that the step consumed, in order.
        spilled: The micro-batches zeroed away before the step.
        stale: Height left over from earlier updates.
        outcome: How the window ended.
        state: Whether its gradient is that of the whole batch; ``stale``: older gradient is in it; ``short``:
            micro-batches were zeroed away; the others as in :class:`gradledger.ledger.Balance`.
    """

    cups: tuple[Cup, ...]
    spilled: tuple[Cup, ...] = ()
    stale: float = 0.0
    outcome: Outcome = "step"
    state: State = "unknown"

    @property
    def holds_something(self) -> bool:
        """A rank whose data have ended takes part in windows of the others with nothing."""
        return any(weight for weight, _ in (*self.cups, *self.spilled)) or self.stale > 0

    def to_json(self) -> dict[str, Any]:
        """The bucket for the page's script."""
        return {
            "cups": self.cups,
            "spilled": self.spilled,
            "stale": self.stale,
            "outcome": self.outcome,
            "state": self.state,
        }


@dataclass(frozen=True, slots=True)
class Track:
    """The buckets of one account on one rank.

    Args:
        account: The account.
        rank: The rank.
        unit: What heights count.
        buckets: Those that are drawn.
        updates: The number of the update that each of them became.
        num_windows: How many there are, drawn or not.
        states: How many updates were in which state.
    """

    account: str
    rank: int
    unit: str
    buckets: tuple[Bucket, ...]
    updates: tuple[int, ...]
    num_windows: int
    states: Mapping[State, int]

    def to_json(self) -> dict[str, Any]:
        """The track for the page's script: each distinct bucket once, then its number for every window."""
        numbers: dict[Bucket, int] = {}
        sequence = [numbers.setdefault(bucket, len(numbers)) for bucket in self.buckets]
        return {
            "account": self.account,
            "rank": self.rank,
            "unit": self.unit,
            "buckets": [bucket.to_json() for bucket in numbers],
            "sequence": sequence,
            "updates": self.updates,
            "num_windows": self.num_windows,
        }


def tracks_of(ledger: Ledger, max_buckets: int = MAX_BUCKETS) -> list[Track]:
    """Draw every account of every rank.

    Example:
        >>> from gradledger.ledger import Ledger, from_text
        >>> track, = tracks_of(Ledger(from_text("Z B B S B B S Z")))
        >>> [(len(bucket.cups), bucket.stale) for bucket in track.buckets]
        [(2, 0.0), (2, 2.0)]
    """
    by_track: dict[tuple[int, str], list[Window]] = {}
    for window in ledger.windows():
        by_track.setdefault((_rank(window.entries), window.account), []).append(window)
    tracks = (_track(account, rank, windows, max_buckets) for (rank, account), windows in sorted(by_track.items()))
    return [track for track in tracks if track.buckets]


def _rank(entries: Iterable[Entry]) -> int:
    return next(iter(entries)).rank


def _track(account: str, rank: int, windows: list[Window], max_buckets: int) -> Track:
    backwards = [backward for window in windows for backward in window.backwards]
    weighted = bool(backwards) and all(backward.weight is not None for backward in backwards)
    drawn = list(_Pouring(weighted).pour(windows))
    kept = _kept([bucket for _, bucket in drawn], max_buckets)
    return Track(
        account=account,
        rank=rank,
        unit=backwards[0].unit if weighted else "micro-batches",
        buckets=tuple(drawn[i][1] for i in kept),
        updates=tuple(drawn[i][0] for i in kept),
        num_windows=len(drawn),
        states=Counter(bucket.state for _, bucket in drawn if bucket.outcome == "step" and bucket.holds_something),
    )


@dataclass
class _Pouring:
    """What is in the bucket as one goes through the entries."""

    weighted: bool
    fresh: list[Cup] = field(default_factory=list)
    spilled: list[Cup] = field(default_factory=list)
    stale: float = 0.0

    def pour(self, windows: Iterable[Window]) -> Iterator[tuple[int, Bucket]]:
        for window in windows:
            balance = balance_of(window)
            ratios = iter(balance.ratios)
            consumed = {id(backward) for backward in window.consumed}
            for entry in window.entries:
                if isinstance(entry, Backward):
                    self.fresh.append(self._cup(entry, next(ratios, 1.0) if id(entry) in consumed else 1.0))
                elif isinstance(entry, Zero) and not entry.partial:
                    self._empty(entry)
            if window.backwards:
                yield window.backwards[0].update + 1, self._bucket(window, balance.verdict)
                self._close(window.step)

    def _cup(self, backward: Backward, ratio: float) -> Cup:
        weight = (backward.weight or 0.0) if self.weighted else 1.0
        return round(weight, 4), round(weight * ratio, 4)

    def _empty(self, zero: Zero) -> None:
        if not zero.void:
            self.spilled += self.fresh
            self.fresh = []
        self.stale = 0.0

    def _bucket(self, window: Window, verdict: State) -> Bucket:
        outcome: Outcome = "void" if window.is_void else "open" if window.step is None else "step"
        if window.step is not None and window.step.skipped:
            outcome = "skipped"
        state: State = "stale" if self.stale else "short" if self.spilled else verdict
        return Bucket(self._scaled_to_all(), tuple(self.spilled), round(self.stale, 4), outcome, state)

    def _scaled_to_all(self) -> tuple[Cup, ...]:
        """The cups with their heights in terms of the whole window, what was zeroed away included."""
        kept = sum(weight for weight, _ in self.fresh)
        lost = sum(weight for weight, _ in self.spilled)
        if not lost or not kept:
            return tuple(self.fresh)
        return tuple((weight, round(height * (kept + lost) / kept, 4)) for weight, height in self.fresh)

    def _close(self, step: Step | None) -> None:
        if step is not None:
            self.stale += sum(height for _, height in self.fresh)
        self.fresh, self.spilled = [], []


def _kept(buckets: list[Bucket], max_buckets: int) -> list[int]:
    """Every bucket, or those of a rare kind and an even choice of the others."""
    if len(buckets) <= max_buckets:
        return list(range(len(buckets)))
    kinds = [(len(bucket.cups), bucket.outcome, bucket.state) for bucket in buckets]
    amounts = Counter(kinds)
    rare = [i for i, kind in enumerate(kinds) if amounts[kind] < len(buckets) // 20]
    rare = rare[:: -(-2 * len(rare) // max_buckets) or 1]
    every = -(-len(buckets) // (max_buckets - len(rare)))
    return sorted({*rare, *range(0, len(buckets), every)})
