"""One audit of one training, told once, for all ranks: as a block, and for the trainers' callbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from gradledger.auditor import Auditor
from gradledger.errors import UserError
from gradledger.findings import Finding, exit_status, render
from gradledger.integrations._weighing import find_ranks

Log = Callable[[dict[str, float]], None]
"""Takes the numbers of findings, by severity, to where a trainer's numbers go."""


class TrainingAudit:
    """The audit of one training.

    Args:
        select: Only these rules: slugs, codes or families. None: all.
        ignore: Not these.
        raise_on_findings: End with an error where something is at warning or above.

    Raises:
        UserError: ``select`` or ``ignore`` names no rule.
    """

    _latest: ClassVar[TrainingAudit | None] = None

    def __init__(
        self, select: Iterable[str] | None = None, ignore: Iterable[str] | None = None, raise_on_findings: bool = False
    ) -> None:
        self._rules: dict[str, Any] = {"select": select and list(select), "ignore": ignore and list(ignore)}
        self._raise_on_findings = raise_on_findings
        self._auditor: Auditor | None = None
        self.findings: list[Finding] = []
        """Those of all ranks, each cause once, when the training has ended."""
        Auditor(**self._rules)  # a rule that does not exist is told now

    def begin(self) -> None:
        """Look on from here. Where another audit looks on already, such as ``gradledger audit``, it is left to tell."""
        if (
            TrainingAudit._latest is not None
        ):  # its training was ended by an error, and its trainer has no hook for that
            TrainingAudit._latest.abandon()
        auditor = Auditor(**self._rules)
        try:
            auditor.__enter__()
        except UserError:
            return
        self._auditor, TrainingAudit._latest = auditor, self

    def end(self, logger: str, log: Log) -> None:
        """Judge what was seen, on all ranks together; the first one tells it.

        Args:
            logger: The name of the logger that takes the text.
            log: Takes the numbers.

        Raises:
            UserError: Something is at warning or above, and that was to be an error.
        """
        if self._auditor is None:
            return
        auditor, ranks = self._auditor, find_ranks()
        self.abandon()
        reports = auditor.reports
        if ranks is not None:
            reports = [report for each in ranks.gather(reports, "end of an audit") for report in each]
        self.findings = auditor.merged(reports)
        is_bad = bool(exit_status(self.findings))
        text = render(self.findings) if self.findings else f"gradledger: nothing found in {auditor.num_updates} updates"
        if ranks is None or ranks.index == 0:
            logging.getLogger(logger).log(logging.WARNING if is_bad else logging.INFO, text)
            log({f"gradledger/{name}s": self._count(name) for name in ("error", "warning")})
        if is_bad and self._raise_on_findings:
            raise UserError(f"the audit of this training found what must be changed:\n{text}")

    def abandon(self) -> list[Finding]:
        """Look on no longer, and tell nobody."""
        auditor, self._auditor = self._auditor, None
        if TrainingAudit._latest is self:
            TrainingAudit._latest = None
        return [] if auditor is None else auditor.close()

    def _count(self, severity: str) -> float:
        return float(sum(finding.severity == severity for finding in self.findings))


@contextmanager
def audited(
    trainer: Any,
    *,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
    raise_on_findings: bool = False,
) -> Iterator[TrainingAudit]:
    """Audit the training in a block, for loops that Accelerate or Fabric drive.

    The first rank writes the findings to the logger ``gradledger`` and their numbers to the trackers or loggers of
    ``trainer``. An error in the block goes through, and nothing is told.

    Args:
        trainer: The ``Accelerator`` or the ``Fabric``.
        select: Only these rules: slugs, codes or families. None: all.
        ignore: Not these.
        raise_on_findings: End with an error where something is at warning or above.

    Raises:
        UserError: ``select`` or ``ignore`` names no rule, or findings were to be an error.

    Example:
        >>> import torch
        >>> from accelerate import Accelerator
        >>> accelerator = Accelerator(cpu=True)
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with audited(accelerator) as audit:
        ...     for x in torch.ones(3, 4, 2):
        ...         accelerator.backward(model(x).mean())
        ...         optimizer.step()
        >>> [finding.rule for finding in audit.findings]
        ['stale-gradient']
    """
    audit = TrainingAudit(select, ignore, raise_on_findings)
    audit.begin()
    try:
        yield audit
    except BaseException:
        audit.abandon()
        raise
    audit.end("gradledger", getattr(trainer, "log_dict", None) or trainer.log)
