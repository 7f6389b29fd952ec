"""What a run tells those who watch it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gradledger.ledger import Entry
from gradledger.metrics import Evaluation
from gradledger.train.config import TrainConfig

Exit = Literal["finished", "interrupted", "terminated", "failed"]
STOPPED = ("interrupted", "terminated")
"""Ended by Ctrl-C or SIGTERM."""


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """One closed window.

    Args:
        update: Updates made so far, this one included.
        epoch: The pass over the data, from 1.
        loss: The loss of the effective batch.
        grad_norm: The gradient's 2-norm before clipping; None where it is not known.
        lr: The learning rate that the update used.
        num_samples: Samples in the effective batch, over all ranks.
        num_micro_batches: Micro-batches in it, over all ranks.
        seconds: Since training began.
        skipped: The window closed without an update.
    """

    update: int
    epoch: int
    loss: float
    grad_norm: float | None
    lr: float
    num_samples: int
    num_micro_batches: int
    seconds: float
    skipped: bool


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """The model measured after an update, on one split."""

    update: int
    epoch: int
    split: Literal["train", "validation"]
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Summary:
    """A run as a whole.

    Args:
        exit: How it ended.
        num_updates: Updates made.
        num_epochs: Passes over the data that were completed.
        seconds: Time in ``total``, and of it in ``data`` (reading micro-batches), ``forward_backward`` and ``step``
            (closing windows). On an accelerator, waiting for it counts where the waiting happens.
        peak_memory_bytes: On an accelerator, what its allocator held at most. On a CPU, the tensors alive at most
            in the run's first windows. None where it is not known.
        details: The task, names of classes, effective batch, device and versions.
    """

    exit: Exit
    num_updates: int
    num_epochs: int
    seconds: dict[str, float]
    peak_memory_bytes: int | None
    details: dict[str, Any]


class Observer:
    """Watches a run. Every method does nothing unless it is overridden."""

    def begin(self, config: TrainConfig, num_planned_updates: int | None) -> None:
        """Training is about to begin, with this completed configuration."""

    def update(self, record: UpdateRecord) -> None:
        """A window has closed."""

    def entries(self, entries: Sequence[Entry]) -> None:
        """The ledger has grown by these entries."""

    def evaluation(self, record: EvaluationRecord) -> None:
        """The model was measured."""

    def weights(self, write: Callable[[str], None]) -> None:
        """The run is over, however it ended, and ``write(path)`` writes the weights to a file."""

    def end(self, summary: Summary) -> None:
        """The run is over."""
