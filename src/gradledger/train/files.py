"""Writes a run into its directory as it goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gradledger.ledger import Entry
from gradledger.train.checkpoint.writing import replacing
from gradledger.train.config import TrainConfig
from gradledger.train.records import EvaluationRecord, Observer, Summary, UpdateRecord
from gradledger.train.run_directory import CONFIG, LEDGER, METRICS, Lines, RunDirectory, append_to, open_rank_ledger
from gradledger.train.write_errors import WriteErrors


class RunFiles(Observer):
    """The configuration, the ledger, the metrics, and at the end (however it comes) the weights.

    Args:
        directory: Where they go.
        errors: What becomes of a file that cannot be written; None: that stops the run.
    """

    def __init__(self, directory: RunDirectory, errors: WriteErrors | None = None) -> None:
        self._directory = directory
        self._errors = errors or WriteErrors()
        self._has_weights = False

    def begin(self, config: TrainConfig, num_planned_updates: int | None) -> None:
        """Write the configuration."""
        if self._directory.is_new:
            with self._errors.guarded(self._directory.path / CONFIG):
                self._directory.write_config(config.model_dump())

    def update(self, record: UpdateRecord) -> None:
        """Append to the metrics."""
        self._append_metrics({"kind": "update", **asdict(record)})

    def entries(self, entries: Sequence[Entry]) -> None:
        """Append to the ledger."""
        with self._errors.guarded(self._directory.path / LEDGER):
            self._directory.append_entries(entries)

    def evaluation(self, record: EvaluationRecord) -> None:
        """Append to the metrics."""
        place = {"update": record.update, "epoch": record.epoch, "split": record.split}
        self._append_metrics({"kind": "evaluation", **place, **record.evaluation.as_record()})

    def weights(self, write: Callable[[str], None]) -> None:
        """Save the weights."""
        path = self._directory.path / "checkpoints" / "model.safetensors"
        with self._errors.guarded(path), replacing(self._directory.checkpoints / path.name) as aside:
            write(str(aside))
        self._has_weights = self._directory.path / "checkpoints" / path.name not in self._errors.failing

    def end(self, summary: Summary) -> None:
        """Append the summary."""
        fields = asdict(summary)
        record = {"kind": "summary", **fields.pop("details"), **fields}
        self.entries([])  # what waits is tried once more
        is_complete = self._has_weights and not self._directory.has_waiting_entries
        self._append_metrics(record if is_complete else {**record, "incomplete": True})
        with self._errors.last_chance(self._directory.path):
            self._directory.close()

    def _append_metrics(self, record: Mapping[str, Any]) -> None:
        with self._errors.guarded(self._directory.path / METRICS):
            self._directory.append_metrics(record)


class RankLedger(Observer):
    """The ledger of a rank that writes nothing else, beside the first one's in the run directory."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        rank: int,
        lines: Lines | None = None,
        errors: WriteErrors | None = None,
    ) -> None:
        self._file = open_rank_ledger(directory, rank, lines)
        self._errors = errors or WriteErrors()

    def entries(self, entries: Sequence[Entry]) -> None:
        """Append to the ledger."""
        with self._errors.guarded(self._file.path):
            append_to(self._file, entries)

    def sync(self) -> Lines:
        """Have all lines reach the disk; how far the file goes then."""
        return {self._file.path.name: self._file.sync()}

    def end(self, summary: Summary) -> None:
        """Close the file."""
        with self._errors.last_chance(self._file.path):
            self._file.close()
