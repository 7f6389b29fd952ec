"""Writes a run into its directory as it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from safetensors.torch import save_model
from torch import nn

from gradledger.ledger import Entry
from gradledger.train.config import TrainConfig
from gradledger.train.records import EvaluationRecord, Observer, Summary, UpdateRecord
from gradledger.train.run_directory import RunDirectory


class RunFiles(Observer):
    """The configuration, the ledger, the metrics, and at the end (however it comes) the weights."""

    def __init__(self, directory: RunDirectory, model: nn.Module) -> None:
        self._directory = directory
        self._model = model

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

    def end(self, summary: Summary) -> None:
        """Save the weights and append the summary."""
        save_model(self._model, str(self._directory.checkpoints / "model.safetensors"))
        fields = asdict(summary)
        self._directory.append_metrics({"kind": "summary", **fields.pop("details"), **fields})
        self._directory.close()
