"""A run in the terminal: a progress bar, or plain lines where there is no terminal, and the results at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gradledger.ledger import Entry
from gradledger.metrics import ClassificationMetrics, Evaluation, LanguageMetrics, RegressionMetrics
from gradledger.train.config import TrainConfig
from gradledger.train.ledger_table import HEADER, LedgerTable
from gradledger.train.records import EvaluationRecord, Observer, Summary, UpdateRecord

_MOST_PREVIEW_LINES = 17
_PLAIN_LINES_PER_RUN = 20
_RATE_MEMORY = 0.9


class TerminalView(Observer):
    """Shows a run as it goes.

    Args:
        console: Where to; a progress bar is drawn only in a terminal.
        table: Print the whole ledger, not only its first lines.
    """

    def __init__(self, console: Console, *, table: bool = False) -> None:
        self._console = console
        self._table = table
        self._ledger_table = LedgerTable()
        self._num_table_lines = 0
        self._num_preview_lines = 0
        self._progress: Progress | None = None
        self._num_planned: int | None = None
        self._rate = _Rate()
        self._last_plain_line = 0

    def begin(self, config: TrainConfig, num_planned_updates: int | None) -> None:
        """Say what is about to happen."""
        self._num_planned = num_planned_updates
        ranks = f"{config.num_ranks} ranks × " if config.num_ranks > 1 else ""
        two_windows = 1 + 2 * config.num_micro_batches_per_window
        self._num_preview_lines = min(two_windows, _MOST_PREVIEW_LINES)
        planned = "" if num_planned_updates is None else f", {num_planned_updates} updates"
        self._say(
            f"Training {config.model.name} on {config.data.name} with {config.optimizer.name}: "
            f"{ranks}micro-batches of {config.micro_batch_size} × {config.num_micro_batches_per_window} = "
            f"effective batch {config.effective_num_samples}, tail {config.tail}, {config.epochs} epochs{planned}"
        )
        whose = " of rank 0 (the others' are in ledger-rank-1.jsonl …)" if config.num_ranks > 1 else ""
        self._say(HEADER if self._table else f"The ledger{whose} begins:\n{HEADER}")

    def update(self, record: UpdateRecord) -> None:
        """Move the bar, or print a line now and then."""
        rate = self._rate.after(record)
        norm = "–" if record.grad_norm is None else f"{record.grad_norm:.3f}"
        if self._console.is_terminal:
            numbers = {"loss": f"{record.loss:.4f}", "norm": norm, "lr": f"{record.lr:.3g}", "rate": f"{rate:.0f}"}
            self._move_bar(record.update, numbers)
        elif not self._table and self._is_line_due(record):
            self._last_plain_line = record.update
            self._say(
                f"update {record.update}{'' if self._num_planned is None else f'/{self._num_planned}'}  epoch "
                f"{record.epoch}  loss {record.loss:.4f}  grad norm {norm}  lr {record.lr:.3g}  "
                f"{rate:.0f} samples/s{self._time_left(record)}"
            )

    def entries(self, entries: Sequence[Entry]) -> None:
        """Print the ledger: all of it, or its first windows."""
        if not self._table and self._num_table_lines >= self._num_preview_lines:
            return
        for line in self._ledger_table.lines(entries):
            self._num_table_lines += 1
            if self._table or self._num_table_lines <= self._num_preview_lines:
                self._say(line)
            if not self._table and self._num_table_lines == self._num_preview_lines:
                self._say(f"{'…':>7} (all of it: --table)")

    def evaluation(self, record: EvaluationRecord) -> None:
        """In the table, say what validation came to."""
        if self._table:
            self._say(f"-- {record.split}: {_headline(record.evaluation)}")

    def end(self, summary: Summary) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()

    def _move_bar(self, num_updates: int, numbers: dict[str, str]) -> None:
        if self._progress is None:
            fields = "loss {task.fields[loss]}  grad norm {task.fields[norm]}  lr {task.fields[lr]}"
            self._progress = Progress(
                TextColumn("update"),
                MofNCompleteColumn(),
                BarColumn(bar_width=None),
                TextColumn(fields),
                TextColumn("{task.fields[rate]} samples/s"),
                TimeRemainingColumn(compact=True),
                console=self._console,
                transient=True,
            )
            self._progress.add_task("", total=self._num_planned, **numbers)  # type: ignore[arg-type]  # fields are free
            self._progress.start()
        self._progress.update(self._progress.task_ids[0], completed=num_updates, **numbers)  # type: ignore[arg-type]

    def _is_line_due(self, record: UpdateRecord) -> bool:
        every = max((self._num_planned or 50 * _PLAIN_LINES_PER_RUN) // _PLAIN_LINES_PER_RUN, 1)
        return record.update in (1, self._num_planned) or record.update - self._last_plain_line >= every

    def _time_left(self, record: UpdateRecord) -> str:
        if self._num_planned is None or not record.update:
            return ""
        left = record.seconds / record.update * (self._num_planned - record.update)
        return f"  {left:.0f} s left"

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Rate:
    """Samples per second, smoothed."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._rate: float | None = None

    def after(self, record: UpdateRecord) -> float:
        elapsed = max(record.seconds - self._seconds, 1e-9)
        self._seconds = record.seconds
        now = record.num_samples / elapsed
        self._rate = now if self._rate is None else _RATE_MEMORY * self._rate + (1 - _RATE_MEMORY) * now
        return self._rate


def print_results(
    console: Console, summary: Summary, evaluations: Mapping[str, Evaluation], config: TrainConfig, directory: str
) -> None:
    """The end of a run: losses, metrics, the confusion matrix, what was done and where it is."""
    if evaluations:
        console.print(_splits_table(evaluations))
    validation = evaluations.get("validation")
    if validation is not None and isinstance(validation.metrics, ClassificationMetrics):
        names = summary.details["class_names"]
        console.print(_classes_table(validation.metrics, names))
        console.print(_confusion_table(validation.metrics, names))
    ranks = f"{config.num_ranks} ranks × " if config.num_ranks > 1 else ""
    lines = [
        f"Effective batch  {ranks}{config.micro_batch_size} samples × {config.num_micro_batches_per_window} "
        f"micro-batches = {config.effective_num_samples} samples",
        *([f"Reduction        {summary.details['reduction']}"] if "reduction" in summary.details else []),
        f"Updates          {summary.num_updates} in {summary.num_epochs} epochs",
        f"Time             {_times(summary.seconds)}",
        f"Run directory    {directory}",
    ]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _times(seconds: Mapping[str, float]) -> str:
    parts = ", ".join(f"{name.replace('_', '/')} {value:.1f} s" for name, value in seconds.items() if name != "total")
    return f"{seconds['total']:.1f} s ({parts})"


def _headline(evaluation: Evaluation) -> str:
    metrics = evaluation.metrics
    if isinstance(metrics, RegressionMetrics):
        return f"loss {evaluation.loss:.4f}  MAE {metrics.mae:.4f}  RMSE {metrics.rmse:.4f}"
    if isinstance(metrics, LanguageMetrics):
        return f"loss {evaluation.loss:.4f}  perplexity {metrics.perplexity:.3f}  accuracy {metrics.accuracy:.2%}"
    return f"loss {evaluation.loss:.4f}  accuracy {metrics.accuracy:.2%}  macro F1 {metrics.macro_f1:.4f}"


def _splits_table(evaluations: Mapping[str, Evaluation]) -> Table:
    rows = {split: _split_row(evaluation) for split, evaluation in sorted(evaluations.items())}
    table = Table(title="Results", title_justify="left")
    table.add_column("")
    for name in next(iter(rows.values())):
        table.add_column(name, justify="right")
    for split, row in rows.items():
        table.add_row(split, *row.values())
    return table


def _split_row(evaluation: Evaluation) -> dict[str, str]:
    metrics = evaluation.metrics
    row = {"samples": str(metrics.num_samples), "loss": f"{evaluation.loss:.4f}"}
    if isinstance(metrics, RegressionMetrics):
        r2 = "–" if metrics.r2 is None else f"{metrics.r2:.4f}"
        return {**row, "MAE": f"{metrics.mae:.4f}", "RMSE": f"{metrics.rmse:.4f}", "R²": r2}
    row["accuracy"] = f"{metrics.accuracy:.2%}"
    if isinstance(metrics, LanguageMetrics):
        return {**row, "perplexity": f"{metrics.perplexity:.3f}"}
    row["macro F1"] = f"{metrics.macro_f1:.4f}"
    if metrics.roc_auc is not None and metrics.pr_auc is not None:
        row |= {"ROC-AUC": f"{metrics.roc_auc:.4f}", "PR-AUC": f"{metrics.pr_auc:.4f}"}
    return row


def _classes_table(metrics: ClassificationMetrics, names: Sequence[str]) -> Table:
    table = Table(title="Validation, by class", title_justify="left")
    for heading in ("class", "precision", "recall", "F1", "support"):
        table.add_column(heading, justify="right")
    columns = (metrics.precision, metrics.recall, metrics.f1, metrics.support)
    for name, precision, recall, f1, support in zip(names, *columns, strict=True):
        table.add_row(_plain(name), f"{precision:.4f}", f"{recall:.4f}", f"{f1:.4f}", str(support))
    return table


def _confusion_table(metrics: ClassificationMetrics, names: Sequence[str]) -> Table:
    table = Table(title="Confusion matrix: rows are true classes, columns predicted ones", title_justify="left")
    table.add_column("", justify="right")
    for name in names:
        table.add_column(_plain(name), justify="right")
    for index, (name, row) in enumerate(zip(names, metrics.confusion, strict=True)):
        cells = [f"[bold]{count}[/]" if index == column else str(count or "·") for column, count in enumerate(row)]
        table.add_row(_plain(name), *cells)
    return table


def _plain(text: str) -> str:
    """A user's text without meaning for rich."""
    return text.replace("[", r"\[")
