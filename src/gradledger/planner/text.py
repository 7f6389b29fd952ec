"""A plan in the terminal: a table, the curve of speed and memory, the verdict."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gradledger.engine.memory.limits import readable_bytes
from gradledger.planner.result import Plan, PlanRow

_BAR_WIDTH = 24


def as_rich(plan: Plan) -> Group:
    """The plan, ready for a console."""
    parts: list[RenderableType] = [_sizes(plan), Text(f"\n{_sentence(plan.verdict)}")]
    if plan.ranks:
        parts += [Text(), _ranks(plan), Text(_link(plan))]
    return Group(*parts, *map(Text, _notes(plan)))


def _sizes(plan: Plan) -> Table:
    title = f"Effective batch {plan.effective_batch_size}, {readable_bytes(plan.limit_bytes)} of memory, {plan.device}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("micro-batch", "× number", "peak memory", "time per update", "samples/s"):
        table.add_column(heading, justify="right")
    table.add_column("speed ")
    table.add_column("memory")
    speeds = [_speed(plan, row) for row in plan.rows]
    for row, speed in zip(plan.rows, speeds, strict=True):
        is_chosen = row is plan.recommended
        table.add_row(
            f"{'→ ' if is_chosen else ''}{row.micro_batch_size}",
            str(row.num_micro_batches),
            readable_bytes(row.peak_bytes) + ("" if row.fits else " too much"),
            "" if row.seconds is None else f"{row.seconds:.4g} s{'' if row.is_measured else ' *'}",
            "" if row.seconds is None else f"{speed:.4g}",
            _bar(speed / max([*speeds, 1e-30])),
            _bar(min(1.0, row.peak_bytes / plan.limit_bytes)) + ("" if row.fits else "▶"),
            style="bold" if is_chosen else ("dim" if not row.fits else ""),
        )
    return table


def _ranks(plan: Plan) -> Table:
    table = Table(title="Predicted on more ranks", title_justify="left", box=None, pad_edge=False)
    for heading in ("ranks", "micro-batch", "× number", "one all-reduce per update", "one per micro-batch"):
        table.add_column(heading, justify="right")
    for row in plan.ranks:
        table.add_row(
            str(row.num_ranks),
            str(row.micro_batch_size),
            str(row.num_micro_batches),
            f"{row.seconds_with_no_sync:.4g} s",
            f"{row.seconds_without_no_sync:.4g} s",
        )
    return table


def _link(plan: Plan) -> str:
    return (
        f"Assumed: a ring all-reduce of {readable_bytes(plan.gradient_bytes)}, "
        f"{readable_bytes(plan.link.bytes_per_second)}/s and {plan.link.latency_seconds * 1e6:.3g} µs per step, not "
        "overlapped with computation."
    )


def _notes(plan: Plan) -> Iterator[str]:
    yield f"In an open window {plan.gradients}."
    if not all(row.is_measured for row in plan.rows):
        yield "* predicted: memory by running the same operations without data, time from the largest measured size."


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _speed(plan: Plan, row: PlanRow) -> float:
    return 0.0 if row.seconds is None else plan.effective_batch_size / row.seconds


def _bar(part: float) -> str:
    eighths = round(part * _BAR_WIDTH * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
