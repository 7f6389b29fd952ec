"""The content of a report, in the order it is read; the HTML, Markdown and JSON forms all come from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradledger.ledger import Entry, EpochEnd, EpochStart, Evaluate, Metric, Step, to_text
from gradledger.reading import name_of
from gradledger.report.charts import Chart, charts_of
from gradledger.report.comparison import Comparison, Table, compare, groups_of
from gradledger.report.facts import (
    Confusion,
    Fact,
    Share,
    arithmetic,
    confusion_of,
    environment,
    key_facts,
    time_split,
)
from gradledger.report.findings import Shown, by_severity, one_a_group, read_findings
from gradledger.report.health import findings_of
from gradledger.report.picture import Track, tracks_of
from gradledger.report.results import result_of
from gradledger.report.runs import Run, read_compare, read_runs
from gradledger.report.verdict import Verdict, verdict_of_run, verdict_of_runs


@dataclass(frozen=True, slots=True)
class RunPart:
    """What a report shows of one run beside the charts."""

    name: str
    group: str
    facts: tuple[Fact, ...]
    arithmetic: tuple[str, ...]
    tracks: tuple[Track, ...]
    confusion: Confusion | None
    time_split: tuple[Share, ...]
    environment: tuple[tuple[str, str], ...]
    config_text: str
    ledger_text: str


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report.

    Args:
        title: The name of the run, of the comparison, or of the file of findings.
        verdict: The headline.
        findings: Errors first.
        runs: One part a group: its first run.
        charts: Shared by all runs.
        comparison: Only where there are several runs.
        details: Names and values that a tool's result brings along.
        tables: Tables that it brings along, by name.
        is_live: A run goes on: the page asks for its newer self.
    """

    title: str
    verdict: Verdict
    findings: tuple[Shown, ...] = ()
    runs: tuple[RunPart, ...] = ()
    charts: tuple[Chart, ...] = ()
    comparison: Comparison | None = None
    details: tuple[tuple[str, str], ...] = ()
    tables: tuple[tuple[str, Table], ...] = ()
    is_live: bool = False


def page_of(paths: Sequence[Path]) -> Page:
    """Read what the paths hold: run directories, a directory of them, or one JSON file of findings.

    Raises:
        UserError: A path holds nothing that a report can be made from.
    """
    if len(paths) == 1 and paths[0].is_file():
        return page_of_findings(paths[0])
    compared = read_compare(paths[0]) if len(paths) == 1 else None
    title = name_of(paths[0]) if len(paths) == 1 else " · ".join(name_of(path) for path in paths)
    return page_of_runs(read_runs(paths), title=title, compared=compared)


def page_of_runs(runs: Sequence[Run], *, title: str, compared: Mapping[str, Any] | None = None) -> Page:
    """The report of one run or of several."""
    groups = groups_of(runs, compared)
    runs = sorted(runs, key=lambda run: groups.index(run.group))
    firsts = [next(run for run in runs if run.group == group) for group in groups]
    parts = tuple(_part(run) for run in firsts)
    named = [finding for run in runs for finding in findings_of(run, name_it=len(runs) > 1)]
    findings = by_severity(one_a_group(named))
    return Page(
        title=title,
        verdict=(
            verdict_of_run(runs[0], parts[0].tracks, findings)
            if len(runs) == 1
            else verdict_of_runs(runs, findings, compared)
        ),
        findings=tuple(findings),
        runs=parts,
        charts=tuple(charts_of(runs)),
        comparison=compare(runs, compared) if len(runs) > 1 else None,
        is_live=any(run.is_live for run in runs),
    )


def page_of_findings(path: Path) -> Page:
    """The report of a file that ``audit``, ``lint``, ``verify`` or ``plan`` wrote."""
    result = result_of(read_findings(path))
    return Page(path.name, result.verdict, result.findings, details=result.details, tables=result.tables)


def _part(run: Run) -> RunPart:
    tracks = tracks_of(run.ledger)
    return RunPart(
        name=run.name,
        group=run.group,
        facts=tuple(key_facts(run)),
        arithmetic=tuple(arithmetic(run)),
        tracks=tuple(tracks),
        confusion=confusion_of(run),
        time_split=tuple(time_split(run)),
        environment=tuple(environment(run)),
        config_text=run.config_text,
        ledger_text=_first_windows(run) if tracks else "",
    )


def _first_windows(run: Run, num_windows: int = 2) -> str:
    """The letters of the first windows, as the ledger's own text form writes them, without the marks of epochs."""
    shown: list[Entry] = []
    for entry in run.ledger:
        if not isinstance(entry, EpochStart | EpochEnd | Evaluate | Metric):
            shown.append(entry)
        if isinstance(entry, Step):
            num_windows -= 1
        if not num_windows:
            break
    return to_text(shown)
