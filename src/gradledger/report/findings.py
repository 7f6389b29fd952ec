"""Findings as a report shows them: the record that every tool writes, with the lines of source around it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradledger.errors import UserError
from gradledger.findings import SEVERITIES, Finding, Severity
from gradledger.reading import read_file

_CONTEXT_LINES = 2
_MAX_LINE_LENGTH = 200
_MOST_EXCERPTED_BYTES = 1 << 24
_MOST_COUNT = 10**15


@dataclass(frozen=True, slots=True)
class SourceLine:
    """One line of an excerpt; ``flagged`` where the finding points at it."""

    number: int
    text: str
    flagged: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """A finding, ready to be drawn.

    Args:
        rule: The slug of its rule.
        code: The rule's code.
        severity: ``error``, ``warning`` or ``info``.
        message: What is wrong, with the numbers.
        fix: What to change.
        place: ``file:line``, empty where no line is known.
        times: How often it happened.
        first_update: The update that it was first seen in.
        run: The run that it is about; empty for a file of findings.
        runs: How many runs of its group have it.
        evidence: What proves it, a strip of the ledger for instance.
        source: The lines around the place, where the file can still be read.
    """

    rule: str
    code: str
    severity: Severity
    message: str
    fix: str = ""
    place: str = ""
    times: int = 1
    first_update: int | None = None
    run: str = ""
    runs: int = 1
    evidence: tuple[str, ...] = ()
    source: tuple[SourceLine, ...] = ()


def shown(record: Mapping[str, Any], run: str = "") -> Shown:
    """Make a finding's JSON record ready to be drawn; what is not of its kind in it counts as missing."""
    location = record.get("location")
    location = location if isinstance(location, Mapping) else {}
    file, line = location.get("file"), _whole(location.get("line"))
    evidence = record.get("evidence")
    severity = record.get("severity")
    return Shown(
        rule=str(record.get("rule", "")),
        code=str(record.get("code", "")),
        severity=severity if severity in SEVERITIES else "info",
        message=str(record.get("message", "")),
        fix=str(record.get("fix") or ""),
        place=f"{file}:{line}" if file and line else str(file or ""),
        times=_whole(record.get("count")) or 1,
        first_update=_whole(record.get("first_update")),
        run=run,
        evidence=tuple(map(str, evidence)) if isinstance(evidence, Sequence) else (),
        source=_excerpt(file, line) if isinstance(file, str) and line is not None else (),
    )


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and abs(value) < _MOST_COUNT else None


def from_finding(finding: Finding, run: str = "") -> Shown:
    """Make a finding ready to be drawn."""
    location = finding.location
    record = {
        "rule": finding.rule,
        "code": finding.code,
        "severity": finding.severity,
        "message": finding.message,
        "fix": finding.fix,
        "location": None if location is None else {"file": location.file, "line": location.line},
        "count": finding.count,
        "first_update": finding.first_update,
        "evidence": finding.evidence,
    }
    return shown(record, run)


def one_a_group(findings: Sequence[Shown]) -> list[Shown]:
    """Of findings that several seeds of one group share, the first, with how many seeds have it."""
    kept: dict[tuple[str, str, str], list[Shown]] = {}
    for finding in findings:
        kept.setdefault((finding.run.rpartition("/")[0] or finding.run, finding.rule, finding.place), []).append(
            finding
        )
    return [replace(each[0], runs=len({finding.run for finding in each})) for each in kept.values()]


def by_severity(findings: Sequence[Shown]) -> list[Shown]:
    """Errors first, then warnings, then what is only worth knowing."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def read_findings(path: Path) -> Mapping[str, Any]:
    """Read the JSON that ``audit``, ``lint``, ``verify`` or ``plan`` wrote.

    Raises:
        UserError: The file is not such JSON.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}. Write it with `--format json --output {path}`") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    record = record if isinstance(record, dict) else {}
    is_proof = isinstance(record.get("verdict"), str) and isinstance(record.get("parameters"), list)  # of verify
    findings = record.get("findings", [] if is_proof else None)
    if not isinstance(findings, list) or not all(isinstance(finding, dict) for finding in findings):
        raise UserError(
            f'{path} holds no findings: it must be {{"version": 1, "findings": […]}}, '
            "as `gradledger audit --format json` prints it"
        )
    return dict(record)


def _excerpt(file: str, line: int) -> tuple[SourceLine, ...]:
    try:
        if not Path(file).is_file():
            return ()
        content = read_file(file, most_bytes=_MOST_EXCERPTED_BYTES)
    except (OSError, ValueError):
        return ()
    lines = content.decode("utf-8", errors="replace").splitlines()
    if not 1 <= line <= len(lines):
        return ()
    first, last = max(1, line - _CONTEXT_LINES), min(len(lines), line + _CONTEXT_LINES)
    return tuple(SourceLine(n, lines[n - 1][:_MAX_LINE_LENGTH], n == line) for n in range(first, last + 1))
