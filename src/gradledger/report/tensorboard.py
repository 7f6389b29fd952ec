"""TensorBoard event files of runs, written without importing torch or TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gradledger.errors import UserError
from gradledger.report.runs import Run

_UPDATE_FIELDS = {"loss": "train/loss", "grad_norm": "train/grad_norm", "lr": "train/lr"}
_NOT_METRICS = ("kind", "update", "epoch", "split", "support", "confusion", "num_samples")


def write_tensorboard(runs: Iterable[Run], directory: Path) -> list[Path]:
    """Write one event file a run: the loss, gradient norm and learning rate of each update, and every evaluation.

    Args:
        runs: The runs; each gets a folder of its name.
        directory: Where to write; what earlier calls left there stays.

    Returns:
        The folder of each run.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        raise UserError("TensorBoard is not installed: `pip install 'gradledger[tensorboard]'`") from None
    folders = []
    for run in runs:
        folder = directory / _folder_name(run.name)
        folder.mkdir(parents=True, exist_ok=True)
        writer = EventFileWriter(str(folder))
        for tag, update, value in scalars_of(run):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(step=update, summary=summary))
        writer.close()
        folders.append(folder)
    return folders


def scalars_of(run: Run) -> Iterator[tuple[str, int, float]]:
    """Tag, update and value of every finite number of a run."""
    for position, update in enumerate(run.updates, start=1):
        for field, tag in _UPDATE_FIELDS.items():
            yield from _scalar(tag, update.get("update", position), update.get(field))
    names = run.class_names
    for evaluation in run.evaluations:
        split = evaluation.get("split", "validation")
        for field, value in evaluation.items():
            if field in _NOT_METRICS:
                continue
            if isinstance(value, list):
                for name, own in zip(names, value, strict=False):
                    yield from _scalar(f"{split}/{field}/{name}", evaluation.get("update") or 0, own)
            else:
                yield from _scalar(f"{split}/{field}", evaluation.get("update") or 0, value)


def _scalar(tag: str, update: int, value: Any) -> Iterator[tuple[str, int, float]]:
    if isinstance(value, int | float) and math.isfinite(value):
        yield tag, update, float(value)


def _folder_name(name: str) -> str:
    """The run's name without what would leave the directory."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", "..")) or "run"
