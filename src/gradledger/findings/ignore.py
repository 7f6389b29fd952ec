"""Comments that silence a finding on their line: ``# gradledger: ignore[stale-gradient]``."""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterable

from gradledger.findings.finding import Finding

_COMMENT = re.compile(r"#\s*gradledger:\s*ignore(?:\[(?P<names>[^\]]*)\])?")


def ignored_slugs(line: str) -> frozenset[str] | None:
    """The names that a source line's comment ignores; None: no such comment, ``{"*"}``: every rule.

    Example:
        >>> sorted(ignored_slugs("step()  # gradledger: ignore[stale-gradient, GL203]"))
        ['GL203', 'stale-gradient']
    """
    match = _COMMENT.search(line)
    if match is None:
        return None
    names = match["names"]
    return frozenset({"*"} if names is None else (name.strip() for name in names.split(",") if name.strip()))


def without_ignored(findings: Iterable[Finding]) -> list[Finding]:
    """The findings whose source line does not ask to be let alone."""
    return [finding for finding in findings if not _is_ignored(finding)]


def _is_ignored(finding: Finding) -> bool:
    if finding.location is None:
        return False
    names = ignored_slugs(linecache.getline(finding.location.file, finding.location.line))
    return bool(names and names & {"*", finding.rule, finding.code})
