"""Something that is kept current while a run goes on, without slowing it down much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

from gradledger.ledger import Entry
from gradledger.train.records import Observer

_SHORTEST_PAUSE_SECONDS = 2.0
_PAUSE_PER_REFRESH = 10.0
"""A refresh that takes a second is followed by ten without: it costs a tenth of the time at most."""


class Refresher(Observer):
    """Calls something now and then between updates.

    Args:
        refresh: What to call, such as a writer of the report.
        clock: Gives the time in seconds.
    """

    def __init__(self, refresh: Callable[[], object], clock: Callable[[], float] = perf_counter) -> None:
        self._refresh = refresh
        self._clock = clock
        self._due = clock()

    def entries(self, entries: Sequence[Entry]) -> None:
        """The ledger has grown: refresh where it is time."""
        started = self._clock()
        if started >= self._due:
            self._refresh()
            ended = self._clock()
            self._due = ended + max(_SHORTEST_PAUSE_SECONDS, _PAUSE_PER_REFRESH * (ended - started))
