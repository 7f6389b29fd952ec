"""The run directory: ``config.yaml``, ``ledger.jsonl``, ``metrics.jsonl`` and ``checkpoints/`` of one run.

Over several ranks the first one writes it; each other one adds its own ledger, ``ledger-rank-1.jsonl`` and so on.

``metrics.jsonl`` holds one JSON object a line, of three kinds, with numbers that are not finite as null:

- ``update``: ``update`` and ``epoch`` (both from 1), ``loss``, ``grad_norm``, ``lr``, ``num_samples``,
  ``num_micro_batches``, ``seconds`` (since training began) and ``skipped``.
- ``evaluation``: ``update``, ``epoch``, ``split``, ``num_samples``, ``loss`` and the metrics of the task.
- ``summary``: once, at the end; ``incomplete`` where the weights or a part of the ledger could not be written.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from gradledger.errors import UserError
from gradledger.ledger import Entry, entry_to_json, write_header
from gradledger.train.checkpoint.layout import Extent
from gradledger.train.checkpoint.lines import LineFile

CONFIG, LEDGER, METRICS = "config.yaml", "ledger.jsonl", "metrics.jsonl"

Lines = Mapping[str, Extent]
"""How far a run's files went when a checkpoint was made, by their names."""


class RunDirectory:
    """An open run directory; lines are appended and handed to the system with each call.

    Args:
        path: A directory that does not exist yet, or an empty one, unless a run in it is gone on with.
        is_resumed: A run in it is gone on with.
        lines: How far its files went; None: it begins again.

    Raises:
        UserError: The directory holds a run already, or cannot be made or opened.
    """

    def __init__(self, path: str | os.PathLike[str], *, is_resumed: bool = False, lines: Lines | None = None) -> None:
        self.path = Path(path)
        _make(self.path)
        if not is_resumed and any(self.path.iterdir()):
            raise UserError(f"{self.path} is not empty: choose another name, or remove it first")
        self.is_new = lines is None
        self._ledger = open_ledger(self.path / LEDGER, lines)
        self._metrics = _open(self.path / METRICS, lines)
        self.of_former_ranks: Lines = {}

    @classmethod
    def create(cls, root: str | os.PathLike[str], name: str | None, *, stem: str) -> RunDirectory:
        """Open ``root/name``, or the first free one of ``root/stem-1``, ``root/stem-2`` where there is no name."""
        return cls(make_directory(root, name, stem=stem))

    @property
    def checkpoints(self) -> Path:
        """The directory for checkpoints and weights, made when first asked for."""
        path = self.path / "checkpoints"
        path.mkdir(exist_ok=True)
        return path

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write ``config.yaml``, keys in the order given."""
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        (self.path / CONFIG).write_text(text, encoding="utf-8")

    def append_entries(self, entries: Iterable[Entry]) -> None:
        """Append to the ledger."""
        append_to(self._ledger, entries)

    @property
    def has_waiting_entries(self) -> bool:
        """Whether a part of the ledger could not be written yet."""
        return self._ledger.is_waiting

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append one line to the metrics."""
        self._metrics.append(json.dumps(finite_or_null(record), allow_nan=False) + "\n")

    def sync(self) -> dict[str, Extent]:
        """Have all lines reach the disk; how far the files go then."""
        return {**self.of_former_ranks, LEDGER: self._ledger.sync(), METRICS: self._metrics.sync()}

    def cut_rank_ledgers(self, lines: Lines, num_ranks: int) -> None:
        """Remove from the ranks' ledgers what was written after a checkpoint; those of ranks that are no more stay so.

        Raises:
            OSError: It cannot be removed.
        """
        present = {rank_ledger(rank) for rank in range(1, num_ranks)}
        self.of_former_ranks = {
            name: extent for name, extent in lines.items() if name not in present | {LEDGER, METRICS}
        }
        for path in self.path.glob(rank_ledger("*")):
            if path.name not in lines:
                path.unlink()
            elif path.name not in present:
                os.truncate(path, lines[path.name].num_bytes)

    def close(self) -> None:
        """Close the files; the directory stays.

        Raises:
            OSError: Lines could not be written, and are lost.
        """
        try:
            self._ledger.close()
        finally:
            self._metrics.close()


def open_rank_ledger(path: str | os.PathLike[str], rank: int, lines: Lines | None = None) -> LineFile:
    """The ledger of a rank above 0, in the run directory of the first one (made where disks are not shared).

    Raises:
        UserError: It cannot be made or opened.
    """
    _make(Path(path))
    name = rank_ledger(rank)
    return open_ledger(Path(path) / name, lines if lines is not None and name in lines else None)


def rank_ledger(rank: int | str) -> str:
    """The name of the ledger of a rank above 0."""
    return f"ledger-rank-{rank}.jsonl"


def open_ledger(path: Path, lines: Lines | None = None) -> LineFile:
    """A ledger's file to append to, begun with its header, or gone on with."""
    file = _open(path, lines)
    if lines is None:
        header = io.StringIO()
        write_header(header)
        file.append(header.getvalue())
    return file


def append_to(ledger: LineFile, entries: Iterable[Entry]) -> None:
    """Append entries to a ledger's file."""
    ledger.append("".join(entry_to_json(entry) + "\n" for entry in entries))


def _open(path: Path, lines: Lines | None) -> LineFile:
    if lines is not None and path.name not in lines:
        raise UserError(f"the checkpoint does not say how far {path.name} went")
    try:
        return LineFile(path, None if lines is None else lines[path.name])
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}") from None


def make_directory(root: str | os.PathLike[str], name: str | None, *, stem: str) -> Path:
    """Make ``root/name``, or the first free one of ``root/stem-1``, ``root/stem-2`` where there is no name.

    Raises:
        UserError: It cannot be made, or a directory of that name holds something.
    """
    if name is not None:
        path = Path(root) / name
        _make(path)
        if any(path.iterdir()):
            raise UserError(f"{path} is not empty: choose another name, or remove it first")
        return path
    _make(Path(root))
    for number in count(1):
        path = Path(root) / f"{stem}-{number}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{path} cannot be made: {error.strerror}") from None
        return path
    raise AssertionError("unreachable")


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be made: {error.strerror}") from None


def finite_or_null(value: Any) -> Any:
    """The value as JSON can hold it: NaN and infinities become None, tuples lists.

    Example:
        >>> finite_or_null({"loss": float("nan"), "recall": (0.5, 1.0)})
        {'loss': None, 'recall': [0.5, 1.0]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(item) for item in value]
    return value
