"""What is known of the graphs of a line: surveyed a few times, marked where they are kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from gradledger.auditor.reading.survey import Survey, mark_retained, retained_call, survey
from gradledger.auditor.recording.journal import Journal
from gradledger.auditor.recording.registry import Registry
from gradledger.auditor.recording.state import Surveyed
from gradledger.ledger import Backward, Location

_SURVEYS_PER_LINE = 3


class Surveys:
    """The first few graphs of each line that calls backward."""

    def __init__(self, registry: Registry) -> None:
        self.lines_of_terms: set[Location | None] = set()
        self._registry = registry
        self._num_surveys: dict[Location | None, int] = {}
        self._known: dict[Location | None, Surveyed] = {}
        self._last: dict[Location | None, Survey] = {}

    def of(self, roots: list[Any], location: Location | None) -> Surveyed:
        """What the line's graphs hold."""
        done = self._num_surveys.get(location, 0)
        if done >= _SURVEYS_PER_LINE:
            return self._known[location]
        self._num_surveys[location] = done + 1
        found = survey(roots)
        surveyed = Surveyed()
        if found is not None:
            num_unowned = sum(identity not in self._registry.owners for identity in found.parameters)
            is_sharded = any(account.is_sharded for account in self._registry.accounts.values())
            surveyed = Surveyed(
                None if is_sharded else num_unowned,
                found.batch_norm,
                found.num_rows,
                found.joins_cache,
                found.fills_cache,
            )
            before = self._last.get(location)
            if before is not None and found.same_data_as(before):
                self.lines_of_terms.add(location)
            self._last[location] = found
        self._known[location] = surveyed
        return surveyed

    def release(self) -> None:
        """Let go of what the graphs were fed with."""
        self._last.clear()


class RetainedGraphs:
    """Graphs that ``retain_graph=True`` kept, and who went through them again."""

    def __init__(self, registry: Registry, journal: Journal) -> None:
        self._turns = registry.turns
        self._journal = journal
        self._any = False

    def keep(self, roots: list[Any], call: int) -> None:
        """A call keeps its graph."""
        mark_retained(roots, call)
        self._any = True

    def call_of(self, roots: list[Any]) -> int | None:
        """The earlier call whose graph this one goes through again."""
        return retained_call(roots) if self._any else None

    def reused_by_grad(self, outputs: Iterable[Any]) -> None:
        """``autograd.grad`` went through a graph: a retained one was kept for it."""
        if not self._any:
            return
        call = retained_call([node for output in outputs if (node := getattr(output, "grad_fn", None)) is not None])
        if call is None:
            return
        with self._turns:
            entries = self._journal.entries
            for position, entry in enumerate(entries):
                if isinstance(entry, Backward) and entry.call == call:
                    entries[position] = replace(entry, retained=False)
