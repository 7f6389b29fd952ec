"""The arms of a comparison: ways to train on the same samples in the same order, right and wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gradledger.errors import UserError
from gradledger.train.config import AUTO_SIZE, Choice, TrainConfig
from gradledger.train.faulty import Fault
from gradledger.train.names import nearest

DEFAULT_CLIP_NORM = 0.5


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        name: How it is called.
        description: What it does.
        changes: Gives what is changed in a completed configuration whose window is ``micro_batch_size × steps``.
        fault: The mistake it makes; None: it is right.
    """

    name: str
    description: str
    changes: Callable[[TrainConfig], dict[str, Any]]
    fault: Fault | None = None

    def configure(self, config: TrainConfig) -> TrainConfig:
        """The arm's own configuration."""
        return config.model_copy(update=self.changes(config))


def _nothing(_: TrainConfig) -> dict[str, Any]:
    return {}


def _small(_: TrainConfig) -> dict[str, Any]:
    return {"steps": 1}


def _large(config: TrainConfig) -> dict[str, Any]:
    return {"micro_batch_size": config.effective_num_samples, "steps": 1}


def _scaled_lr(config: TrainConfig) -> dict[str, Any]:
    lr = config.optimizer.arguments.get("lr")
    if not isinstance(lr, int | float):
        raise UserError(
            f"the arm 'scaled-lr' needs optimizer.lr, which optimizer {config.optimizer.name!r} does not have: "
            "leave the arm out with --arms"
        )
    scaled = lr * lr_factor(config)
    return {"optimizer": Choice.model_validate({**config.optimizer.model_dump(), "lr": scaled})}


def lr_factor(config: TrainConfig) -> float:
    """What ``scaled-lr`` multiplies the learning rate by: the steps with SGD, their root with other optimizers."""
    steps = config.num_micro_batches_per_window
    return float(steps) if config.optimizer.name == "sgd" else math.sqrt(steps)


def _clipped(config: TrainConfig) -> dict[str, Any]:
    return {"clip_norm": config.clip_norm or DEFAULT_CLIP_NORM, "clip_value": None}


def _unclipped(_: TrainConfig) -> dict[str, Any]:
    return {"clip_norm": None, "clip_value": None}


_ARMS = (
    Arm("small-batch", "an update and a zeroing after every micro-batch", _small),
    Arm("accumulated", "micro-batches accumulated to the effective batch", _nothing),
    Arm("large-batch", "the effective batch in one piece", _large),
    Arm("scaled-lr", "accumulated, with the learning rate raised with the effective batch", _scaled_lr),
    Arm("clipped", "accumulated, and the window's gradient clipped by its norm", _clipped),
    Arm("unclipped", "accumulated, without clipping", _unclipped),
    Arm("never-zeroed", "gradients are never zeroed", _nothing, "never-zeroed"),
    Arm("zeroed-inside", "gradients are zeroed before every micro-batch of the window", _nothing, "zeroed-inside"),
    Arm("not-normalized", "losses are added, not averaged", _nothing, "not-normalized"),
    Arm("tail-mis-scaled", "the short tail is divided by the full number of steps", _nothing, "tail-mis-scaled"),
    Arm(
        "tail-dropped",
        "the tail is accumulated and never stepped, as in the founding example",
        _nothing,
        "tail-dropped",
    ),
)
ARMS = {arm.name: arm for arm in _ARMS}
"""Every arm by its name."""

_BASE = ("small-batch", "accumulated", "large-batch", "scaled-lr")
BROKEN = tuple(arm.name for arm in _ARMS if arm.fault is not None)


def choose_arms(names: str | None, config: TrainConfig) -> tuple[Arm, ...]:
    """The arms that a text such as ``"accumulated,large-batch"``, ``"broken"`` or ``"all"`` names.

    Args:
        names: Names separated by commas; ``default``, ``broken`` and ``all`` stand for several. None: ``default``.
        config: The completed configuration, which says whether clipping is to be tried or left out.

    Raises:
        UserError: A name is unknown, or the micro-batch size is left open.
    """
    if config.micro_batch_size == AUTO_SIZE:
        raise UserError("micro_batch_size is auto, but a comparison is between given sizes: give a number")
    clipping = "clipped" if config.clip_norm is None and config.clip_value is None else "unclipped"
    scales = isinstance(config.optimizer.arguments.get("lr"), int | float)
    default = (*(name for name in _BASE if scales or name != "scaled-lr"), clipping)
    groups = {"default": default, "broken": BROKEN, "all": (*default, *BROKEN)}
    chosen: dict[str, Arm] = {}
    for name in (names or "default").split(","):
        name = name.strip()
        if name not in ARMS and name not in groups:
            valid = [*ARMS, *groups]
            raise UserError(f"unknown arm {name!r}: {nearest(name, valid)} The arms are {', '.join(valid)}")
        chosen |= {arm: ARMS[arm] for arm in groups.get(name, (name,))}
    return tuple(chosen.values())
