"""Learning rate schedules: where they were built, when they advance."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from gradledger.auditor.reading.facts import horizon
from gradledger.auditor.reading.locations import user_location
from gradledger.auditor.recording.journal import Journal
from gradledger.auditor.recording.registry import Registry
from gradledger.ledger import Location, Schedule


class Schedules:
    """Schedulers of all kinds.

    ``on_class`` is told the class of each new scheduler: it may be one of the user's own, not met before.
    """

    def __init__(self, registry: Registry, journal: Journal) -> None:
        self.on_class: Callable[[type[Any]], None] | None = None
        self._construction: weakref.WeakKeyDictionary[Any, Location | None] = weakref.WeakKeyDictionary()
        self._registry = registry
        self._journal = journal

    def built(self, scheduler: Any) -> None:
        """A scheduler is being made."""
        self._construction[scheduler] = user_location()
        if self.on_class is not None:
            self.on_class(type(scheduler))

    def advanced(self, scheduler: Any) -> None:
        """A scheduler advanced."""
        account = self._registry.account_of(getattr(scheduler, "optimizer", None))
        if account is None:
            return
        lr = scheduler.optimizer.param_groups[0].get("lr")
        entry = Schedule(
            location=user_location(),
            lr=lr if isinstance(lr, float) else None,
            scheduler=type(scheduler).__name__,
            horizon=horizon(scheduler),
            construction=self._construction.get(scheduler),
        )
        with self._registry.turns:
            self._journal.add(account, entry)
