"""Several runs side by side: runs that differ only in their seed make one group, shown as a mean with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from gradledger.report.charts import ends_of
from gradledger.report.facts import effective_batch, last_evaluation
from gradledger.report.runs import Run
from gradledger.report.wording import duration, number, percent, size

_COLUMNS = {
    "effective batch": number,
    "updates": number,
    "training loss": lambda value: number(value, 4),
    "validation loss": lambda value: number(value, 4),
    "accuracy": percent,
    "lowest recall": percent,
    "perplexity": number,
    "R²": number,
    "time": duration,
    "peak memory": size,
}
"""What is compared, and how it is written."""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns with names, and rows of as many cells."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side.

    Args:
        groups: The names of the groups, in order.
        table: A row a group.
        note: What ``±`` means; empty without seeds.
        differences: How far accumulated and large batch lie apart, where that was measured.
    """

    groups: tuple[str, ...]
    table: Table
    note: str
    differences: Table | None = None


def groups_of(runs: Sequence[Run], compared: Mapping[str, Any] | None = None) -> list[str]:
    """The groups in the order that the comparison names its arms in; others after them, as the runs come."""
    found = list(dict.fromkeys(run.group for run in runs))
    arms = (compared or {}).get("arms") or []
    named = [str(arm.get("name")) for arm in arms if isinstance(arm, Mapping)]
    return [name for name in named if name in found] + [name for name in found if name not in named]


def compare(runs: Sequence[Run], compared: Mapping[str, Any] | None = None) -> Comparison:
    """Put runs side by side."""
    groups = groups_of(runs, compared)
    figures = {group: [_figures(run) for run in runs if run.group == group] for group in groups}
    columns = [name for name in _COLUMNS if any(own[name] is not None for each in figures.values() for own in each)]
    rows = [(group, *(_cell(name, [own[name] for own in figures[group]]) for name in columns)) for group in groups]
    most = max(len(each) for each in figures.values())
    note = f"Means over {most} seeds; ± is half of the 95 % confidence interval (Student's t)." if most > 1 else ""
    return Comparison(tuple(groups), Table(("run", *columns), tuple(rows)), note, _differences(compared))


def _figures(run: Run) -> dict[str, float | None]:
    evaluation = last_evaluation(run)
    recalls = [recall for recall in evaluation.get("recall") or () if recall is not None]
    return {
        "effective batch": effective_batch(run).get("samples"),
        "updates": run.summary.get("num_updates") or len(run.updates),
        "training loss": ends_of(run.column("loss"))[1],
        "validation loss": evaluation.get("loss"),
        "accuracy": evaluation.get("accuracy"),
        "lowest recall": min(recalls) if recalls else None,
        "perplexity": evaluation.get("perplexity"),
        "R²": evaluation.get("r2"),
        "time": (run.summary.get("seconds") or {}).get("total"),
        "peak memory": run.summary.get("peak_memory_bytes"),
    }


def _cell(name: str, values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return "–"
    write = _COLUMNS[name]
    if len(known) == 1 or min(known) == max(known):
        return write(known[0])
    return f"{write(fmean(known))} ± {write(half_width(known))}"


def half_width(values: Sequence[float]) -> float:
    """Half the width of the mean's 95 % confidence interval.

    Example:
        >>> round(half_width([1.0, 2.0, 3.0]), 4)
        2.4841
    """
    from scipy.stats import t  # type: ignore[import-untyped]

    return float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def _differences(compared: Mapping[str, Any] | None) -> Table | None:
    measured = [*((compared or {}).get("differences") or []), *((compared or {}).get("in_float64") or [])]
    rows = [
        (
            str(each.get("seed")), str(each.get("dtype")), number(each.get("after")), number(each.get("largest"), 2),
            number(each.get("relative"), 2),
        )
        for each in measured
        if isinstance(each, Mapping)
    ]  # fmt: skip
    return Table(("seed", "trained in", "updates", "largest difference", "relative"), tuple(rows)) if rows else None
