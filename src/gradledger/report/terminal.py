"""The report in a few lines of terminal: how the run ended, its curve, what is wrong with it."""

from __future__ import annotations

import math
from os import PathLike
from pathlib import Path
from statistics import fmean
from typing import IO, TYPE_CHECKING

from gradledger.printing import make_console
from gradledger.report.charts import ends_of
from gradledger.report.facts import key_facts
from gradledger.report.findings import by_severity
from gradledger.report.health import findings_of
from gradledger.report.picture import tracks_of
from gradledger.report.runs import Run, read_run
from gradledger.report.verdict import verdict_of_run
from gradledger.report.wording import number

if TYPE_CHECKING:
    from rich.text import Text

_BARS = "▁▂▃▄▅▆▇█"
_MARKS = {"good": ("●", "green"), "running": ("○", "cyan"), "warning": ("▲", "yellow"), "error": ("■", "red")}
_SEVERITY_STYLES = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}


def print_summary(run_dir: str | PathLike[str], *, file: IO[str] | None = None, width: int | None = None) -> None:
    """Print a run's headline, its numbers, its loss as a sparkline, and its findings.

    Args:
        run_dir: The run directory.
        file: Where to print; None: standard output.
        width: Columns; None: the terminal's.

    Raises:
        UserError: A file of the run is damaged.
    """
    run = read_run(Path(run_dir))
    console = make_console(file=file, width=width, highlight=False)
    for line in _lines(run):
        console.print(line)


def _lines(run: Run) -> list[Text]:
    from rich.text import Text

    findings = by_severity(findings_of(run))
    verdict = verdict_of_run(run, tracks_of(run.ledger), findings)
    mark, color = _MARKS[verdict.level]
    lines = [Text(f"{mark} ", color).append(verdict.headline, "bold default")]
    lines += [Text(f"  {sentence}") for sentence in verdict.sentences]
    curve = loss_curve(run)
    if curve:
        first, last = ends_of(run.column("loss"))
        lines.append(Text("  loss ", "dim").append(curve, "cyan").append(f"  {number(first)} → {number(last)}", "dim"))
    facts = (f"{fact.label} {fact.value}" + (f" ({fact.note})" if fact.note else "") for fact in key_facts(run))
    lines.append(Text("  " + " · ".join(facts), "dim"))
    for finding in findings:
        if finding.severity != "info":
            style = _SEVERITY_STYLES[finding.severity]
            lines.append(Text(f"  {finding.severity} ", style).append(f"{finding.rule}: {finding.message}", "default"))
    return lines


def loss_curve(run: Run, width: int = 40) -> str:
    """The loss of every update as a line of bars."""
    return sparkline([value for value in run.column("loss") if value is not None], width)


def sparkline(values: list[float], width: int = 40) -> str:
    """Bars as high as the values, averaged over equal stretches when there are more values than bars.

    Example:
        >>> sparkline([4.0, 3.0, 2.0, 1.0])
        '█▆▃▁'
    """
    if not values:
        return ""
    width = min(width, len(values))
    means = [fmean(values[i * len(values) // width : (i + 1) * len(values) // width]) for i in range(width)]
    low, high = min(means), max(means)
    span = high - low
    if not 0 < span < math.inf:
        return _BARS[0] * width
    return "".join(_BARS[round((mean - low) / span * (len(_BARS) - 1))] for mean in means)
