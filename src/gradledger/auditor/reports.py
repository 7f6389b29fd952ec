"""What one process of an audited program tells of itself, and what several of them come to.

Processes that train together over ranks run the same program: a cause that several of them have is one finding. Some
rules compare ranks, and need the ledgers of all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gradledger.auditor.recording.place import Place
from gradledger.findings import Finding, in_source_order, only_on
from gradledger.ledger import Entry, Location
from gradledger.ledger.jsonl import entry_from_json, entry_to_json
from gradledger.rules import judge, rules_over_ranks

MAX_COMPARED = 4000
"""Entries of a rank's ledger that are compared with those of the others: the beginning of a long run."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one process tells.

    Args:
        findings: Its own, of all rules.
        place: Where it stands among the ranks.
        ledger: The beginning of what happened, where there are other ranks.
        is_whole: The ledger is all that happened, and the program came to its end.
        num_updates: Updates that it made.
        num_backwards: Backward calls.
    """

    findings: tuple[Finding, ...]
    place: Place = field(default_factory=Place)
    ledger: tuple[Entry, ...] = ()
    is_whole: bool = True
    num_updates: int = 0
    num_backwards: int = 0


def write_reports(reports: Iterable[Report], path: Path) -> None:
    """Leave reports for another process; the file appears whole or not at all."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps([_record(report) for report in reports]), encoding="utf-8")
    unfinished.replace(path)


def _record(report: Report) -> dict[str, Any]:
    return asdict(replace(report, ledger=())) | {"ledger": [entry_to_json(entry) for entry in report.ledger]}


def read_reports(path: Path) -> list[Report]:
    """The reports that a process has left."""
    return [_report(record) for record in json.loads(path.read_text(encoding="utf-8"))]


def _report(record: dict[str, Any]) -> Report:
    record["findings"] = tuple(map(_finding, record["findings"]))
    record["ledger"] = tuple(map(entry_from_json, record["ledger"]))
    return Report(**record | {"place": Place(**record["place"])})


def _finding(record: dict[str, Any]) -> Finding:
    location = record.pop("location")
    evidence = tuple(record.pop("evidence"))
    return Finding(**record, evidence=evidence, location=Location(*location) if location else None)


def merge_reports(
    reports: Sequence[Report], select: Iterable[str] | None = None, ignore: Iterable[str] | None = None
) -> list[Finding]:
    """The findings of several processes, in source order.

    Args:
        reports: One for each process.
        select: The rules that they were judged by.
        ignore: Those that they were not.
    """
    merged: dict[Any, Finding] = {}
    for group in _groups(reports):
        for finding in _judged_together(group, select, ignore):
            known = merged.get(finding.cause)
            count = max(finding.count, known.count) if known else finding.count
            merged[finding.cause] = replace(known or finding, count=count)
    return in_source_order(merged.values())


def _groups(reports: Sequence[Report]) -> list[list[Report]]:
    """Reports of processes that trained together; one that trained alone is a group of its own."""
    groups = [[report] for report in reports if report.place.num_ranks == 1]
    together: list[list[Report]] = []
    for report in sorted((r for r in reports if r.place.num_ranks > 1), key=lambda report: report.place.since):
        ranks = [other.place.rank for other in together[-1]] if together else []
        if not together or report.place.rank in ranks or together[-1][0].place.num_ranks != report.place.num_ranks:
            together.append([])
        together[-1].append(report)
    return groups + [sorted(group, key=lambda report: report.place.rank) for group in together]


def _judged_together(
    group: list[Report], select: Iterable[str] | None, ignore: Iterable[str] | None
) -> Iterable[Finding]:
    if len(group) == 1:
        return group[0].findings
    over_ranks = rules_over_ranks()
    entries = [entry for report in group for entry in report.ledger]
    compared = judge(entries, select, ignore, complete=all(report.is_whole for report in group))
    found = [(report.place.rank, finding) for report in group for finding in report.findings]
    own = [(rank, finding) for rank, finding in found if finding.rule not in over_ranks]
    return [*_by_cause(own, len(group)), *(finding for finding in compared if finding.rule in over_ranks)]


def _by_cause(found: list[tuple[int, Finding]], num_ranks: int) -> Iterable[Finding]:
    """Each cause once, with the largest count; where only some ranks have it, they are named."""
    causes: dict[Any, list[tuple[int, Finding]]] = {}
    for rank, finding in found:
        causes.setdefault(finding.cause, []).append((rank, finding))
    for pairs in causes.values():
        first = pairs[0][1]
        message = first.message + only_on((rank for rank, _ in pairs), num_ranks)
        yield replace(first, count=max(finding.count for _, finding in pairs), message=message)
