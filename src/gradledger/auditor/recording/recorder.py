"""Keeps the ledger of a running program: the parts that turn what the patches see into entries, put together."""

from __future__ import annotations

from collections.abc import Callable

from gradledger.auditor.recording.averages import Averages
from gradledger.auditor.recording.backward import Backwards
from gradledger.auditor.recording.by_hand import ByHand
from gradledger.auditor.recording.clipping import Clips
from gradledger.auditor.recording.epochs import EpochWatch
from gradledger.auditor.recording.evaluations import Evaluations
from gradledger.auditor.recording.journal import Journal
from gradledger.auditor.recording.reductions import Reductions
from gradledger.auditor.recording.registry import Registry
from gradledger.auditor.recording.scaler import Scalers
from gradledger.auditor.recording.schedules import Schedules
from gradledger.auditor.recording.state import ThreadState
from gradledger.auditor.recording.steps import Steps
from gradledger.auditor.recording.zeroing import ZeroCalls, Zeros
from gradledger.ledger import Ledger


class Recorder:
    """The ledger of this process while it is being audited.

    Args:
        stop_after: Updates of one account after which the program is stopped.
        max_entries: Entries that are kept before ``on_full`` is called with a ledger of them.
        on_full: Takes the older part of a long ledger.
    """

    def __init__(
        self,
        *,
        stop_after: int | None = None,
        max_entries: int = 60_000,
        on_full: Callable[[Ledger], None] | None = None,
    ) -> None:
        self.local = local = ThreadState()
        self.registry = registry = Registry()
        self.journal = journal = Journal(registry, max_entries, on_full)
        self.epochs = epochs = EpochWatch(registry, journal)
        zeros = Zeros(journal, epochs, local)
        self.by_hand = by_hand = ByHand(registry, journal, zeros)
        self.zero_calls = ZeroCalls(registry, zeros, by_hand, local)
        self.reductions = Reductions(registry, journal, by_hand, local)
        self.backwards = Backwards(registry, journal, epochs, zeros, by_hand, self.reductions, local)
        self.steps = Steps(registry, journal, epochs, by_hand, self.backwards, local, stop_after)
        self.clips = Clips(registry, journal, by_hand, local)
        self.scalers = Scalers(registry, journal, by_hand, local)
        self.schedules = Schedules(registry, journal)
        self.evaluations = Evaluations(registry, journal)
        self.averages = Averages(registry, journal, local)

    @property
    def num_updates(self) -> int:
        """Updates seen, of all accounts together."""
        with self.registry.turns:
            return self.registry.num_updates

    @property
    def num_backwards(self) -> int:
        """Backward calls seen."""
        return self.backwards.num_calls

    def ledger(self) -> Ledger:
        """What was recorded so far, accounts by their names."""
        with self.registry.turns:
            return self.journal.ledger()

    def finish(self) -> None:
        """Take in what was done by hand since the last event, and let go of every parameter and gradient."""
        with self.registry.turns:
            for account in self.registry.accounts.values():
                self.by_hand.settle(account)
                self.evaluations.ended(account)
            self.registry.release()
            self.backwards.surveys.release()
