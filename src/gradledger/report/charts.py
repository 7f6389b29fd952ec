"""The charts of a report as data: what is drawn, never how it looks (the page's style decides on colours)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from statistics import median
from typing import Any, Literal

from gradledger.ledger import Backward, Clip
from gradledger.report.runs import Run
from gradledger.report.thinning import kept_indices
from gradledger.report.wording import count, duration, number, percent

Role = Literal["dots", "band", "line", "trend", "points", "limit"]
Numbers = Sequence[float | None]

MAX_DOTS = 4_000
_MAX_BAND = 2_000
_MIN_UPDATES_FOR_TREND = 30
_MANY_RUNS = 6
_DWARFS = 100
_MANY_RUNS_POINTS = 200


@dataclass(frozen=True, slots=True)
class Trace:
    """One line or cloud of points.

    Args:
        name: What the legend calls it.
        role: How it is drawn.
        run: Which run it belongs to, an index.
        group: Which group of runs, an index: runs that differ in their seed look alike.
        x: Where its points are, in updates.
        y: Their values.
        low: The lower edge of a band, whose upper edge is ``y``.
    """

    name: str
    role: Role
    run: int
    x: Numbers
    y: Numbers
    low: Numbers = ()
    group: int = 0

    def to_json(self) -> dict[str, Any]:
        """The trace for the page's script."""
        return {
            "name": self.name,
            "role": self.role,
            "run": self.run,
            "group": self.group,
            "x": _short(self.x),
            "y": _short(self.y),
            "low": _short(self.low),
        }


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure of the report.

    Args:
        key: Its name in the page's addresses.
        title: What it shows.
        reading: What one sees in it, in a sentence or two.
        y_label: The vertical axis, with its unit.
        traces: What is drawn; a chart without traces is left out.
        format: How values are shown.
        log: The vertical axis may be switched to a logarithmic one.
        is_wide: It takes the whole width of the page.
    """

    key: str
    title: str
    reading: str
    y_label: str
    traces: tuple[Trace, ...]
    format: Literal["number", "percent", "seconds"] = "number"
    log: bool = False
    is_wide: bool = False

    @property
    def starts_log(self) -> bool:
        """The largest value dwarfs what is usual: a logarithmic axis shows both."""
        values = [abs(value) for trace in self.traces for value in trace.y if value]
        return self.log and len(values) > 1 and max(values) > _DWARFS * median(values)

    def to_json(self) -> dict[str, Any]:
        """The chart for the page's script."""
        return {
            "key": self.key,
            "title": self.title,
            "y_label": self.y_label,
            "format": self.format,
            "is_wide": self.is_wide,
            "traces": [trace.to_json() for trace in self.traces],
        }


def charts_of(runs: Sequence[Run]) -> list[Chart]:
    """Every chart that the runs have data for."""
    charts = [_loss(runs), _scores(runs), _grad_norm(runs), _lr(runs)]
    charts += [_seconds(runs)] if len(runs) <= _MANY_RUNS else []
    return [_grouped(chart, runs) for chart in charts if chart.traces]


def _grouped(chart: Chart, runs: Sequence[Run]) -> Chart:
    """The chart with its traces told apart by group; of many runs only the boldest lines, made sparse."""
    groups = list(dict.fromkeys(run.group for run in runs))
    traces = [replace(trace, group=groups.index(runs[trace.run].group)) for trace in chart.traces]
    if len(runs) > _MANY_RUNS:
        bold = {trace.run for trace in traces if trace.role in ("trend", "limit")}
        traces = [_sparse(trace) for trace in traces if trace.role != "line" or trace.run not in bold]
    return replace(chart, traces=tuple(traces))


def _sparse(trace: Trace) -> Trace:
    kept = kept_indices(trace.y, _MANY_RUNS_POINTS)
    return replace(trace, x=[trace.x[i] for i in kept], y=[trace.y[i] for i in kept])


def _loss(runs: Sequence[Run]) -> Chart:
    traces: list[Trace] = []
    for index, run in enumerate(runs):
        if len(runs) == 1:
            traces += _micro_batches(run, index)
        traces += _per_update(run, index, "loss", _label(runs, run, "per update"))
        traces += _trend(run, index, _label(runs, run, "moving average"))
        traces += _per_evaluation(run, index, "loss", "validation", _label(runs, run, "validation"))
    reading = _fall(runs[0]) if len(runs) == 1 else "Per update, weighted over its micro-batches and not scaled."
    if any(trace.role == "dots" for trace in traces):
        reading += " Each dot behind the line is one micro-batch."
    elif any(trace.role == "band" for trace in traces):
        reading += " The band behind the line spans the micro-batches of each update."
    return Chart("loss", "Loss", reading, "loss", tuple(traces), log=True, is_wide=True)


def _grad_norm(runs: Sequence[Run]) -> Chart:
    traces: list[Trace] = []
    reading = "Of the whole window's gradient, as the optimizer gets it."
    for index, run in enumerate(runs):
        traces += _per_update(run, index, "grad_norm", _label(runs, run, "before clipping"))
        limits = {entry.limit for entry in run.ledger if isinstance(entry, Clip) and entry.by == "norm"} - {None}
        if len(limits) == 1 and traces:
            limit = limits.pop() or 0.0
            traces.append(_clipped(run, index, limit, _label(runs, run, "after clipping")))
            norms = [value for value in run.column("grad_norm") if value is not None]
            over = sum(value > limit for value in norms)
            reading = (
                f"Clipped to {number(limit)} after accumulation, before the step: {over:,} of {len(norms):,} updates "
                "were longer."
            )
    return Chart("grad_norm", "Gradient norm", reading, "gradient norm", tuple(traces), log=True)


def _lr(runs: Sequence[Run]) -> Chart:
    traces = [trace for i, run in enumerate(runs) for trace in _per_update(run, i, "lr", _label(runs, run, "rate"))]
    known = [value for run in runs for value in run.column("lr") if value is not None]
    reading = f"Constant at {number(known[0])}." if known and min(known) == max(known) else "Advances once an update."
    return Chart("lr", "Learning rate", reading, "learning rate", tuple(traces))


def _scores(runs: Sequence[Run]) -> Chart:
    traces: list[Trace] = []
    for index, run in enumerate(runs):
        for name, title in (("accuracy", "accuracy"), ("r2", "R²")):
            traces += _per_evaluation(run, index, name, "validation", _label(runs, run, title))
        if len(runs) == 1:
            for name in ("precision", "recall", "f1"):
                traces += _per_evaluation(run, index, name, "validation", f"{name} (macro)", _mean)
            for name, title in (("roc_auc", "ROC-AUC"), ("pr_auc", "PR-AUC")):
                traces += _per_evaluation(run, index, name, "validation", title)
    reading = "Measured without gradients, in evaluation mode. Macro: every class counts alike, however rare."
    return Chart("scores", "Validation metrics", reading, "score", tuple(traces), format="percent", is_wide=True)


def _seconds(runs: Sequence[Run]) -> Chart:
    traces: list[Trace] = []
    known: list[float] = []
    for index, run in enumerate(runs):
        lengths = _differences(_finite(run.column("seconds")))
        traces += _line(run, index, lengths, _label(runs, run, "time"))
        known += [value for value in lengths if value is not None]
    reading = f"The median update takes {duration(median(known))}." if known else ""
    return Chart("seconds", "Time per update", reading, "seconds", tuple(traces), format="seconds", log=True)


def _label(runs: Sequence[Run], run: Run, what: str) -> str:
    return what if len(runs) == 1 else f"{run.name}: {what}"


def _positions(run: Run) -> list[int]:
    return [update.get("update", number) for number, update in enumerate(run.updates, start=1)]


def _per_update(run: Run, index: int, field: str, name: str) -> list[Trace]:
    return _line(run, index, _finite(run.column(field)), name)


def _line(run: Run, index: int, values: Numbers, name: str) -> list[Trace]:
    if all(value is None for value in values):
        return []
    kept = kept_indices(values)
    positions = _positions(run)
    return [Trace(name, "line", index, [positions[i] for i in kept], [values[i] for i in kept])]


def _trend(run: Run, index: int, name: str) -> list[Trace]:
    values = _finite(run.column("loss"))
    if sum(value is not None for value in values) < _MIN_UPDATES_FOR_TREND:
        return []
    smooth = moving_average(values, max(5, len(values) // 25))
    kept = kept_indices(smooth, 1_000)
    positions = _positions(run)
    return [Trace(name, "trend", index, [positions[i] for i in kept], [smooth[i] for i in kept])]


def moving_average(values: Numbers, width: int) -> list[float | None]:
    """The mean of the values within half a width to either side; missing ones are left out.

    Example:
        >>> moving_average([0.0, 3.0, None, 6.0], 3)
        [1.5, 1.5, 4.5, 6.0]
    """
    half = width // 2
    sums, counts = [0.0], [0]
    for value in values:
        sums.append(sums[-1] + (value or 0.0))
        counts.append(counts[-1] + (value is not None))
    means: list[float | None] = []
    for i in range(len(values)):
        low, high = max(0, i - half), min(len(values), i + half + 1)
        num_known = counts[high] - counts[low]
        means.append((sums[high] - sums[low]) / num_known if num_known else None)
    return means


def _micro_batches(run: Run, index: int) -> list[Trace]:
    known = [
        (entry.update + 1, entry.loss)
        for entry in run.ledger
        if isinstance(entry, Backward) and entry.loss is not None and math.isfinite(entry.loss)
    ]
    if not known:
        return []
    if len(known) <= MAX_DOTS:
        return [Trace("micro-batches", "dots", index, [x for x, _ in known], [loss for _, loss in known])]
    known.sort(key=lambda pair: pair[0])
    spans = [(x, [loss for _, loss in group]) for x, group in groupby(known, key=lambda pair: pair[0])]
    stretch = -(-len(spans) // _MAX_BAND)
    bands = [spans[i : i + stretch] for i in range(0, len(spans), stretch)]
    return [
        Trace(
            "micro-batches",
            "band",
            index,
            [band[0][0] for band in bands],
            [max(loss for _, losses in band for loss in losses) for band in bands],
            [min(loss for _, losses in band for loss in losses) for band in bands],
        )
    ]


def _clipped(run: Run, index: int, limit: float, name: str) -> Trace:
    values = [None if value is None else min(value, limit) for value in _finite(run.column("grad_norm"))]
    kept = kept_indices(values)
    positions = _positions(run)
    return Trace(name, "limit", index, [positions[i] for i in kept], [values[i] for i in kept])


def _per_evaluation(
    run: Run, index: int, field: str, split: str, name: str, read: Callable[[Any], float | None] = lambda value: value
) -> list[Trace]:
    evaluations = run.evaluations_on(split)
    values = _finite(read(evaluation.get(field)) for evaluation in evaluations)
    if all(value is None for value in values):
        return []
    return [Trace(name, "points", index, [evaluation.get("update") for evaluation in evaluations], values)]


def _mean(values: Any) -> float | None:
    known = [value for value in values or () if value is not None]
    return sum(known) / len(known) if known else None


def _fall(run: Run) -> str:
    first, last = ends_of(run.column("loss"))
    if first is None or last is None:
        return "No loss was recorded."
    change = f" ({percent(last / first - 1).replace('-', '−')})" if 0 < last < first else ""
    verb = "fell" if last < first else "rose" if last > first else "stayed"
    return (
        f"Training loss {verb} from {number(first)} to {number(last)}{change} over {count(len(run.updates), 'update')}."
    )


def ends_of(values: Iterable[Any]) -> tuple[float | None, float | None]:
    """The median of the first few values (ten at most) and of the last twentieth: where a run began and ended."""
    known = [value for value in _finite(values) if value is not None]
    if not known:
        return None, None
    few = max(1, len(known) // 20)
    return median(known[: min(few, 10)]), median(known[-few:])


def _differences(clock: Numbers) -> list[float | None]:
    """How long each update took, from the clock at its end; the first one's beginning is not known."""
    pairs = pairwise(clock)
    return [None, *(None if a is None or b is None or b < a else b - a for a, b in pairs)]


def _finite(values: Iterable[Any]) -> list[float | None]:
    return [value if isinstance(value, int | float) and math.isfinite(value) else None for value in values]


def _short(values: Numbers) -> list[float | None]:
    return [float(f"{value:.6g}") if isinstance(value, float) else value for value in _finite(values)]
