"""One finding: a rule, a place, a cause, the numbers that prove it and the fix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from gradledger.ledger import DEFAULT_ACCOUNT, Location

Severity = Literal["error", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""Worst first."""

EXIT_CLEAN = 0
EXIT_FINDINGS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One distinct cause, however often it struck.

    Args:
        rule: The rule's slug, such as ``"stale-gradient"``.
        code: The rule's code, such as ``"GL101"``.
        severity: ``error``: the weights are wrong; ``warning``: waste, or wrong in some runs; ``info``: may be meant.
        message: What is wrong, with the measured numbers.
        fix: What to change.
        location: The line that must change, where known.
        count: Windows (or other occasions) that it struck.
        first_update: Updates of the account that were complete when it first struck.
        account: The account whose gradients it concerns.
        evidence: What proves it: a strip of the ledger, micro-batches, factors.
    """

    rule: str
    code: str
    severity: Severity
    message: str
    fix: str = ""
    location: Location | None = None
    count: int = 1
    first_update: int = 0
    account: str = DEFAULT_ACCOUNT
    evidence: tuple[str, ...] = ()

    @property
    def cause(self) -> tuple[str, Location | None]:
        """Findings of one cause are one finding."""
        return self.rule, self.location


def merge(findings: Iterable[Finding]) -> list[Finding]:
    """Add up findings of one cause, in order of first appearance; the first one's words are kept.

    Example:
        >>> one = Finding(rule="stale-gradient", code="GL101", severity="error", message="m")
        >>> [finding.count for finding in merge([one, one])]
        [2]
    """
    merged: dict[tuple[str, Location | None], Finding] = {}
    for finding in findings:
        known = merged.get(finding.cause)
        if known is None:
            merged[finding.cause] = finding
        else:
            first_update = min(known.first_update, finding.first_update)
            merged[finding.cause] = replace(known, count=known.count + finding.count, first_update=first_update)
    return list(merged.values())


def only_on(ranks: Iterable[int], num_ranks: int) -> str:
    """The end of a message: which ranks have a cause that others do not have; empty where all have it.

    Example:
        >>> only_on([1], 2), only_on([0, 1], 2)
        (' Only on rank 1 of 2.', '')
    """
    numbers = sorted(set(ranks))
    if len(numbers) == num_ranks:
        return ""
    return f" Only on rank{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} of {num_ranks}."


def in_source_order(findings: Iterable[Finding]) -> list[Finding]:
    """Sorted by file, line and code; findings without a place come last."""
    return sorted(findings, key=_source_key)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sorted by severity, then in source order."""
    return sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), _source_key(finding)))


def exit_status(findings: Iterable[Finding]) -> int:
    """0 where nothing is at warning or above, otherwise 1."""
    return EXIT_FINDINGS if any(finding.severity != "info" for finding in findings) else EXIT_CLEAN


def _source_key(finding: Finding) -> tuple[bool, str, int, str]:
    location = finding.location
    if location is None:
        return True, "", 0, finding.code
    return False, location.file, location.line, finding.code
