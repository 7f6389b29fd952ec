"""What the rules say about a run: its ledger and its metrics, judged together."""

from __future__ import annotations

from gradledger.report.findings import Shown
from gradledger.report.runs import Run


def findings_of(run: Run, *, name_it: bool = False) -> list[Shown]:
    """Every finding of the rules over a run's ledger and metrics."""
    return []
