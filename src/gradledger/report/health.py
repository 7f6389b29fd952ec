"""What the rules say about a run: its ledger and the metrics in it, judged together."""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.findings import Finding
from gradledger.ledger import Entry, Evaluate, Metric, Step, Zero
from gradledger.report.findings import Shown, from_finding
from gradledger.report.runs import Run
from gradledger.rules import judge


def findings_of(run: Run, *, name_it: bool = False) -> list[Shown]:
    """Every finding of the rules over a run's ledger and metrics.

    Args:
        run: The run. While it goes on, its open window is left out: what it still lacks may come.
        name_it: Name the run in each finding, as a report of several runs needs.
    """
    entries = list(run.ledger)
    if run.is_live:
        entries = _without_open_end(entries)
    if not any(isinstance(entry, Metric) for entry in entries):
        entries += metric_entries(run)
    findings: list[Finding] = judge(entries)
    return [from_finding(finding, run.name if name_it else "") for finding in findings]


def metric_entries(run: Run) -> Iterator[Entry]:
    """The evaluations of a run as ledger entries, for runs whose ledger does not hold them.

    Numbers keep their names; those of one class are named such as ``recall/malignant``.
    """
    names = run.class_names
    for evaluation in run.evaluations:
        update, split = evaluation.get("update") or 0, str(evaluation.get("split"))
        yield Evaluate(update=update)
        for name, value in evaluation.items():
            if name in ("kind", "update", "epoch", "split", "confusion"):
                continue
            if isinstance(value, int | float):
                yield Metric(name=name, value=float(value), split=split, update=update)
            elif isinstance(value, list):
                for label, own in zip(names, value, strict=False):
                    if isinstance(own, int | float):
                        yield Metric(name=f"{name}/{label}", value=float(own), split=split, update=update)


def _without_open_end(entries: list[Entry]) -> list[Entry]:
    """Up to the last step or zeroing."""
    closed = [position for position, entry in enumerate(entries) if isinstance(entry, Step | Zero)]
    return entries[: closed[-1] + 1] if closed else []
