"""One audit: patches on, ledger taken, patches off, rules asked."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from itertools import islice
from types import TracebackType
from typing import Self

from gradledger.auditor.children import Children
from gradledger.auditor.patches.table import Patches
from gradledger.auditor.recording.recorder import Recorder
from gradledger.auditor.recording.steps import AuditStopped
from gradledger.auditor.reports import MAX_COMPARED, Report, merge_reports
from gradledger.errors import UserError
from gradledger.findings import Finding, merge
from gradledger.ledger import Entry, Ledger
from gradledger.rules import check_selection, judge

_active: list[Auditor] = []


class Auditor:
    """Audits the training that happens while it is entered.

    Args:
        select: Only these rules: slugs, codes or families. None: all.
        ignore: Not these.
        stop_after: Updates after which the audited block is stopped. None: let it run.

    Raises:
        UserError: ``select`` or ``ignore`` names no rule, or an audit is already running in this process.

    Example:
        >>> import torch, gradledger
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with gradledger.audit() as auditor:
        ...     for x in torch.ones(3, 4, 2):
        ...         model(x).mean().backward()
        ...         optimizer.step()
        >>> [finding.rule for finding in auditor.findings]
        ['stale-gradient']
    """

    def __init__(
        self,
        *,
        select: Iterable[str] | None = None,
        ignore: Iterable[str] | None = None,
        stop_after: int | None = None,
    ) -> None:
        self._select = list(select) if select is not None else None
        self._ignore = list(ignore) if ignore is not None else None
        check_selection(self._select, self._ignore)
        self._recorder = Recorder(stop_after=stop_after, on_full=self._judge_older)
        self._patches = Patches(self._recorder)
        self._children = Children(self._select, self._ignore)
        self._older: list[Finding] = []
        self._beginning: tuple[Entry, ...] = ()
        self._complete = True
        self.stopped = False

    def __enter__(self) -> Self:
        _leave_parent_at_fork()
        if _active:
            raise UserError("an audit is already running in this process: end it before the next one begins")
        try:
            self._patches.apply()
            self._recorder.registry.meet_living_optimizers()
        except BaseException:
            self._patches.undo()
            raise
        self._children.watch()
        _active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.stopped = isinstance(error, AuditStopped)
        self._complete = error is None or (isinstance(error, SystemExit) and not error.code)
        self.close()
        return self.stopped

    def close(self) -> list[Finding]:
        """End the audit, if it still runs, and return the findings."""
        if self in _active:
            self._patches.undo()
            _active.remove(self)
            self._recorder.finish()
            self._children.unwatch()
        return self.findings

    @property
    def ledger(self) -> Ledger:
        """What happened; of a very long run the last part."""
        return self._recorder.ledger()

    @property
    def num_updates(self) -> int:
        """Updates seen, of all accounts together."""
        return self._recorder.num_updates + self._children.num_updates

    @property
    def num_backwards(self) -> int:
        """Backward calls seen."""
        return self._recorder.num_backwards + self._children.num_backwards

    @property
    def findings(self) -> list[Finding]:
        """Each distinct cause once, in source order."""
        return self.merged(self.reports)

    @property
    def reports(self) -> list[Report]:
        """What this process did, and each of those that it started."""
        ledger = self.ledger
        is_complete = self._complete and not _is_running(self)
        findings = merge([*self._older, *judge(ledger, self._select, self._ignore, complete=is_complete)])
        compared = self._beginning or self._to_compare(ledger)
        own = Report(
            tuple(findings),
            self._recorder.journal.place,
            compared,
            is_complete and len(compared) == len(ledger),
            self._recorder.num_updates,
            self._recorder.num_backwards,
        )
        return [own, *self._children.reports]

    def merged(self, reports: list[Report]) -> list[Finding]:
        """The findings of several processes, each distinct cause once, in source order."""
        return merge_reports(reports, self._select, self._ignore)

    def _to_compare(self, ledger: Ledger) -> tuple[Entry, ...]:
        """The beginning of a ledger, where other ranks have one to compare it with."""
        return tuple(islice(ledger, MAX_COMPARED)) if self._recorder.journal.place.num_ranks > 1 else ()

    def _judge_older(self, ledger: Ledger) -> None:
        self._beginning = self._beginning or self._to_compare(ledger)
        self._older = merge([*self._older, *judge(ledger, self._select, self._ignore, complete=False)])


def leave_parent() -> None:
    """In a forked child: put off the audit that was running in the parent."""
    for auditor in tuple(_active):
        auditor._patches.undo()
        auditor._children.forget()
        _active.remove(auditor)


@cache
def _leave_parent_at_fork() -> None:
    """A forked child that trains on would keep a second ledger from the middle of its parent's."""
    os.register_at_fork(after_in_child=leave_parent)


def _is_running(auditor: Auditor) -> bool:
    return auditor in _active


def audit(
    *, select: Iterable[str] | None = None, ignore: Iterable[str] | None = None, stop_after: int | None = None
) -> Auditor:
    """Audit the training in a ``with`` block; see :class:`Auditor` for the arguments."""
    return Auditor(select=select, ignore=ignore, stop_after=stop_after)
