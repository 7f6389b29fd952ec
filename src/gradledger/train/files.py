"""Writes a run into its directory as it goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict

from gradledger.ledger import Entry
from gradledger.train.config import TrainConfig
from gradledger.train.records import EvaluationRecord, Observer, Summary, UpdateRecord
from gradledger.train.run_directory import RunDirectory, append_to, open_rank_ledger


class RunFiles(Observer):
    """The configuration, the ledger, the metrics, and at the end (however it comes) the weights."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory

    def begin(self, config: TrainConfig, num_planned_updates: int | None) -> None:
        """Write the configuration."""
        self._directory.write_config(config.model_dump())

    def update(self, record: UpdateRecord) -> None:
        """Append to the metrics."""
        self._directory.append_metrics({"kind": "update", **asdict(record)})

    def entries(self, entries: Sequence[Entry]) -> None:
        """Append to the ledger."""
        self._directory.append_entries(entries)

    def evaluation(self, record: EvaluationRecord) -> None:
        """Append to the metrics."""
        place = {"update": record.update, "epoch": record.epoch, "split": record.split}
        self._directory.append_metrics({"kind": "evaluation", **place, **record.evaluation.as_record()})

    def weights(self, write: Callable[[str], None]) -> None:
        """Save the weights."""
        write(str(self._directory.checkpoints / "model.safetensors"))

    def end(self, summary: Summary) -> None:
        """Append the summary."""
        fields = asdict(summary)
        self._directory.append_metrics({"kind": "summary", **fields.pop("details"), **fields})
        self._directory.close()


class RankLedger(Observer):
    """The ledger of a rank that writes nothing else, beside the first one's in the run directory."""

    def __init__(self, directory: str | os.PathLike[str], rank: int) -> None:
        self._file = open_rank_ledger(directory, rank)

    def entries(self, entries: Sequence[Entry]) -> None:
        """Append to the ledger."""
        append_to(self._file, entries)

    def end(self, summary: Summary) -> None:
        """Close the file."""
        self._file.close()
