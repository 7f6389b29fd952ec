"""The report as JSON, for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from gradledger.report.page import Page, RunPart

FORMAT_VERSION = 1


def to_json(page: Page) -> str:
    """Write a report as one JSON object: the verdict, the findings, and for each run its facts and last scores.

    The series behind the charts stay where they are, in each run's metrics.jsonl.
    """
    verdict = page.verdict
    report = {
        "version": FORMAT_VERSION,
        "title": page.title,
        "verdict": {"level": verdict.level, "headline": verdict.headline, "sentences": verdict.sentences},
        "findings": [asdict(finding) for finding in page.findings],
        "runs": [_run(run) for run in page.runs],
        "details": dict(page.details),
        "tables": {name: [dict(zip(own.columns, row, strict=True)) for row in own.rows] for name, own in page.tables},
    }
    return json.dumps(report, indent=2, allow_nan=False) + "\n"


def _run(run: RunPart) -> dict[str, Any]:
    confusion = run.confusion
    return {
        "name": run.name,
        "facts": [asdict(fact) for fact in run.facts],
        "effective_batch": run.arithmetic,
        "num_windows": sum(track.num_windows for track in run.tracks),
        "confusion": None if confusion is None else {"names": confusion.names, "rows": confusion.rows},
        "seconds": {share.name: share.seconds for share in run.time_split},
        "environment": dict(run.environment),
    }
