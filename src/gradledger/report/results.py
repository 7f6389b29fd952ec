"""What ``audit``, ``lint``, ``verify`` and ``plan`` write as JSON, taken apart for a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradledger.report.comparison import Table
from gradledger.report.findings import Shown, by_severity, shown
from gradledger.report.verdict import Level, Verdict, verdict_of_findings
from gradledger.report.wording import number

_APART = ("version", "findings", "summary", "verdict", "cause", "notes")


@dataclass(frozen=True, slots=True)
class Result:
    """A tool's result.

    Args:
        verdict: The headline.
        findings: Errors first.
        details: Single values by name.
        tables: Lists of alike records by name.
    """

    verdict: Verdict
    findings: tuple[Shown, ...]
    details: tuple[tuple[str, str], ...]
    tables: tuple[tuple[str, Table], ...]


def result_of(record: Mapping[str, Any]) -> Result:
    """Take a tool's JSON apart."""
    findings = by_severity([shown(finding) for finding in record.get("findings") or ()])
    own = record.get("plan") if isinstance(record.get("plan"), Mapping) else record
    extra = {name: value for name, value in (own or {}).items() if name not in _APART}
    cause = record.get("cause")
    if isinstance(cause, Mapping):
        findings.append(shown({**cause, "rule": cause.get("slug"), "severity": "error"}))
    flat = list(_flat(extra))
    return Result(
        _verdict(record, own or {}, findings),
        tuple(findings),
        tuple((name, _as_text(value)) for name, value in flat if not _is_table(value) and value not in (None, [])),
        tuple((name, _table(value)) for name, value in flat if _is_table(value)),
    )


def _verdict(record: Mapping[str, Any], own: Mapping[str, Any], findings: Sequence[Shown]) -> Verdict:
    stated = own.get("verdict")
    if not isinstance(stated, str) or not stated:
        return verdict_of_findings(findings)
    stated_notes = record.get("notes")
    notes = tuple(map(str, stated_notes)) if isinstance(stated_notes, list) else ()
    level: Level = verdict_of_findings(findings).level
    return Verdict(level, f"{stated[0].upper()}{stated[1:].rstrip('.')}.", notes)


def _flat(record: Mapping[str, Any], prefix: str = "", depth: int = 3) -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        title = prefix + str(name).replace("_", " ")
        if isinstance(value, Mapping) and depth:
            yield from _flat(value, f"{title} · ", depth - 1)
        else:
            yield title, value


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and any(value) and all(isinstance(row, Mapping) for row in value)


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = tuple(tuple(_as_text(row.get(name)) for name in columns) for row in rows)
    return Table(tuple(str(name).replace("_", " ") for name in columns), cells)


def _as_text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    return ", ".join(map(_as_text, value)) if isinstance(value, list) else str(value)
