"""A comparison in the terminal: the table, the curves, the confusion matrices, and what follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from gradledger.metrics import ClassificationMetrics
from gradledger.train.arms import Arm
from gradledger.train.comparison import COSTS, Comparison, figures_of
from gradledger.train.statistics import Estimate

_BARS = "▁▂▃▄▅▆▇█"
_CURVE_WIDTH = 40
_MOST_CLASSES_SHOWN = 12


_HEADINGS = {
    "loss": "val. loss",
    "accuracy": "accuracy %",
    "macro_f1": "macro F1",
    "lowest_recall": "lowest recall",
    "pr_auc": "PR-AUC",
    "rmse": "RMSE",
    "mae": "MAE",
    "perplexity": "perplexity",
}


def print_comparison(console: Console, comparison: Comparison, statements: Sequence[str], directory: str) -> None:
    """Show everything."""
    console.print()
    console.print(_figures_table(comparison))
    console.print(_costs_table(comparison))
    _print_curves(console, comparison)
    _print_confusions(console, comparison)
    if comparison.differences:
        console.print(_differences_table(comparison))
    for statement in statements:
        console.print(f"• {statement}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Compare directory  {directory}", markup=False, highlight=False, soft_wrap=True)


def _figures_table(comparison: Comparison) -> Group:
    names = figures_of(comparison)
    title = f"Validation: means over {len(comparison.seeds)} seeds ± 95 % interval"
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("arm", no_wrap=True)
    for name in names:
        table.add_column(_HEADINGS[name], justify="right")
    for arm in _trained(comparison):
        cells = (_cell(comparison.estimate(arm.name, name), is_percent=name == "accuracy") for name in names)
        table.add_row(_arm_name(arm), *cells)
    return _titled(title, table)


def _costs_table(comparison: Comparison) -> Group:
    title = "Updates, steadiness, time and memory: means over the seeds"
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("arm", "batch", "updates", "late loss", "moves by", "top norm", "seconds", "peak KiB"):
        table.add_column(heading, justify="left" if heading == "arm" else "right", no_wrap=True)
    for arm in _trained(comparison):
        config = arm.configure(comparison.config)
        means = {name: comparison.estimate(arm.name, name).mean for name in COSTS}
        table.add_row(
            _arm_name(arm),
            f"{config.micro_batch_size} × {config.num_micro_batches_per_window}",
            f"{means['num_updates']:.0f}",
            f"{means['late_loss']:.4f}",
            f"{means['unsteadiness']:.4f}",
            f"{means['max_grad_norm']:.3g}",
            f"{means['seconds']:.2f}",
            "–" if math.isnan(means["peak_memory_bytes"]) else f"{means['peak_memory_bytes'] / 1024:,.0f}",
        )
    caption = "  late loss: training loss in the second half; moves by: its mean change from one update to the next\n"
    return _titled(title, table, caption)


def _titled(title: str, table: Table, caption: str = "") -> Group:
    """A table under a title that may be wider than it."""
    below = [Text(caption, style="dim")] if caption else []
    return Group(Text(title, style="bold"), table, *below)


def _trained(comparison: Comparison) -> list[Arm]:
    return [arm for arm in comparison.arms if comparison.of(arm.name)]


def _arm_name(arm: Arm) -> str:
    return arm.name if arm.fault is None else f"[red]{arm.name}[/]"


def _cell(value: Estimate, *, is_percent: bool) -> str:
    if not value.num_seeds:
        return "–"
    factor, digits = (100, 2) if is_percent else (1, 3)
    width = f" ±{value.half_width * factor:.{digits}f}" if math.isfinite(value.half_width) else ""
    return f"{value.mean * factor:.{digits}f}{width}"


def _print_curves(console: Console, comparison: Comparison) -> None:
    """Each arm's losses over the same samples, all on one logarithmic scale."""
    _print_bars(console, comparison, "Training loss", lambda run: run.losses)
    _print_bars(console, comparison, "Validation loss", lambda run: run.validation_losses)


def _print_bars(console: Console, comparison: Comparison, title: str, values_of: Callable[..., list[float]]) -> None:
    curves = {}
    for arm in comparison.arms:
        pooled = [_pooled(values_of(run), _CURVE_WIDTH) for run in comparison.of(arm.name)]
        if pooled:
            curves[arm.name] = [_mean_of_finite(column) for column in zip(*pooled, strict=False)]
    curves = {name: curve for name, curve in curves.items() if curve}  # a run may end before its first value
    logs = [math.log(value) for curve in curves.values() for value in curve if math.isfinite(value) and value > 0]
    if not logs:
        return
    low, high = min(logs), max(logs)
    console.print(f"{title} over the run (logarithmic, {math.exp(low):.3g} to {math.exp(high):.3g})", highlight=False)
    for name, curve in curves.items():
        bars = "".join(_bar(value, low, high) for value in curve)
        console.print(f"  {name:<16} {bars}  {_ends(curve)}", markup=False, highlight=False, soft_wrap=True)


def _pooled(values: list[float], width: int) -> list[float]:
    """At most ``width`` means of neighbours."""
    count = min(width, len(values))
    edges = [len(values) * index // count for index in range(count + 1)] if count else []
    return [_mean_of_finite(values[start:end]) for start, end in pairwise(edges)]


def _mean_of_finite(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _bar(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return "×"
    if value <= 0 or high == low:
        return _BARS[0]
    place = (math.log(value) - low) / (high - low)
    return _BARS[min(int(place * len(_BARS)), len(_BARS) - 1)]


def _ends(curve: Sequence[float]) -> str:
    return f"{curve[0]:.3g} → {curve[-1]:.3g}"


def _print_confusions(console: Console, comparison: Comparison) -> None:
    """Summed over seeds: accumulated beside the large batch."""
    names = comparison.data.class_names
    if not names or len(names) > _MOST_CLASSES_SHOWN:
        return
    sums = {arm: _summed_confusion(comparison, arm) for arm in ("accumulated", "large-batch") if comparison.of(arm)}
    if len(sums) == 2 and sums["accumulated"] == sums["large-batch"]:
        sums = {"accumulated and large-batch alike": sums["accumulated"]}
    for arm, confusion in sums.items():
        title = f"Confusion over all seeds, {arm}: rows are true classes"
        table = Table(box=box.SIMPLE_HEAD)
        for heading in ("", *names):
            table.add_column(_plain(heading), justify="right", no_wrap=True)
        for name, row in zip(names, confusion, strict=True):
            table.add_row(_plain(name), *(str(count or "·") for count in row))
        console.print(_titled(title, table))


def _plain(text: str) -> str:
    """A user's text without meaning for rich."""
    return text.replace("[", r"\[")


def _summed_confusion(comparison: Comparison, arm: str) -> list[list[int]]:
    num_classes = len(comparison.data.class_names)
    total = [[0] * num_classes for _ in range(num_classes)]
    for run in comparison.of(arm):
        metrics = None if run.validation is None else run.validation.metrics
        if isinstance(metrics, ClassificationMetrics):
            for i, row in enumerate(metrics.confusion):
                for j, count in enumerate(row):
                    total[i][j] += count
    return total


def _differences_table(comparison: Comparison) -> Group:
    title = "Accumulated − large batch: parameters"
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("seed", "trained in", "updates", "largest difference", "relative"):
        table.add_column(heading, justify="right")
    for difference in (*comparison.differences, *comparison.in_float64):
        sizes = f"{difference.largest:.1e}", f"{difference.relative:.1e}"
        table.add_row(str(difference.seed), difference.dtype, str(difference.after), *sizes)
    return _titled(title, table)
