"""Where a run stands: its epoch, what is done of it, and the loss so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

Split = Literal["train", "validation"]


@dataclass
class WeightedMean:
    """A mean that is added up as values come.

    Example:
        >>> mean = WeightedMean()
        >>> mean.add(1.0, 3)
        >>> mean.add(5.0, 1)
        >>> mean.take()
        2.0
    """

    sum: float = 0.0
    weight: float = 0.0

    def add(self, value: float, weight: float) -> None:
        """Count a value by its weight."""
        self.sum += value * weight
        self.weight += weight

    def take(self) -> float:
        """The mean since it was last taken."""
        mean = self.sum / self.weight if self.weight else float("nan")
        self.sum = self.weight = 0.0
        return mean


@dataclass
class Progress:
    """Where a run stands between two of its windows.

    Args:
        epoch: The epoch that is being trained, from 1; one more than there are where all have been.
        is_trained: Its micro-batches have all been trained on; what is left of it is the evaluation.
        evaluated: Splits that were evaluated in any epoch.
        loss: Of the epoch's updates.
        saved_update: Updates when the last checkpoint was made.
    """

    epoch: int = 1
    is_trained: bool = False
    evaluated: set[Split] = field(default_factory=set)
    loss: WeightedMean = field(default_factory=WeightedMean)
    saved_update: int = 0

    def begin_next_epoch(self) -> None:
        """The epoch has been trained and evaluated."""
        self.epoch += 1
        self.is_trained = False

    def is_checkpoint_due(self, update: int, every: int | str | None) -> bool:
        """Whether a checkpoint is to be made after this update, the number of updates being what decides it.

        Example:
            >>> [Progress(saved_update=10).is_checkpoint_due(update, 5) for update in (10, 12, 15)]
            [False, False, True]
        """
        return isinstance(every, int) and update % every == 0 and update > self.saved_update

    def state_dict(self) -> dict[str, Any]:
        """It as plain data."""
        return {
            "epoch": self.epoch,
            "is_trained": self.is_trained,
            "evaluated": sorted(self.evaluated),
            "loss": [self.loss.sum, self.loss.weight],
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """The inverse."""
        evaluated, loss = set(state["evaluated"]), WeightedMean(*state["loss"])
        return cls(state["epoch"], state["is_trained"], evaluated, loss)
