"""From a configuration to things: data, model, loss, optimizer, scheduler and the accumulator around them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader, IterableDataset

from gradledger.engine import num_updates
from gradledger.errors import UserError
from gradledger.train.choices import (
    LossFunction,
    check_class_weights,
    check_task,
    data_registry,
    loss_registry,
    make_loss,
    model_registry,
    optimizer_registry,
    scheduler_registry,
    settle,
    weight_of,
)
from gradledger.train.config import TrainConfig
from gradledger.train.data import Data, as_data, make_loader


@dataclass(frozen=True)
class Setup:
    """Everything that one run trains with.

    Args:
        config: The configuration with nothing left open: ``auto`` is settled, every default is written out.
        data: The data sets.
        model: On its device, in training mode.
        loss: The mean loss of a micro-batch.
        weight: Counts what that mean is over; None: samples.
        optimizer: Owns the model's parameters.
        scheduler: Made for the run's own number of updates.
        loader: Micro-batches of the training set.
        device: Where the model is.
        num_planned_updates: Updates that the run will make; None where the data have no length.
    """

    config: TrainConfig
    data: Data
    model: nn.Module
    loss: LossFunction
    weight: Callable[[Any], float] | None
    optimizer: Optimizer
    scheduler: LRScheduler | ReduceLROnPlateau | None
    loader: DataLoader[Any]
    device: torch.device
    num_planned_updates: int | None


def load_data(config: TrainConfig) -> Data:
    """The data sets that a configuration names."""
    return as_data(data_registry.make(data_registry.complete(config.data)), config.data.name)


def prepare(config: TrainConfig, data: Data | None = None) -> Setup:
    """Make everything, from the configuration's seed.

    Args:
        config: What to make.
        data: The data sets where they are loaded already.

    Raises:
        UserError: A name, an argument or the device is wrong, or things do not fit together.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(
            f"this process is one of {os.environ['WORLD_SIZE']} ranks (WORLD_SIZE), but a configured run trains in one "
            "process: start it without torchrun, or train with gradledger.Accumulator in a script of your own"
        )
    data = load_data(config) if data is None else data
    config = complete(config, data)
    device = _device(config.device)
    set_seed(config.seed)
    model = model_registry.make(config.model, input_shape=data.input_shape, num_outputs=data.num_outputs)
    if not isinstance(model, nn.Module):
        raise UserError(f"model {config.model.name!r} gave {type(model).__name__}: it must give a torch.nn.Module")
    model = _in_precision(model.to(device), config.precision)
    loss = make_loss(config.loss)
    try:
        optimizer = optimizer_registry.make(config.optimizer, model.parameters())
    except (ValueError, TypeError) as error:
        raise UserError(f"optimizer {config.optimizer.name!r}: {error}") from None
    loader = make_loader(data.train, config.micro_batch_size, config.seed)
    planned = _planned_updates(config, data, loader)
    return Setup(
        config=config,
        data=data,
        model=model,
        loss=loss,
        weight=weight_of(loss, data.task),
        optimizer=optimizer,
        scheduler=_scheduler(config, optimizer, planned),
        loader=loader,
        device=device,
        num_planned_updates=planned,
    )


def set_seed(seed: int) -> None:
    """Start every random state afresh."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


_FEW_MULTIPLICATIONS = 1_000_000
"""In a micro-batch, about: below it, threads wait for each other longer than they work."""


@contextmanager
def threads(setup: Setup) -> Iterator[None]:
    """The number of CPU threads that the configuration asks for, or that suits the model."""
    before = torch.get_num_threads()
    wanted = setup.config.num_threads
    if wanted is None and setup.device.type == "cpu":
        num_parameters = sum(parameter.numel() for parameter in setup.model.parameters())
        is_small = num_parameters * setup.config.micro_batch_size < _FEW_MULTIPLICATIONS
        wanted = 1 if is_small else None
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def complete(config: TrainConfig, data: Data) -> TrainConfig:
    """The configuration with ``auto`` settled and every default written out.

    Raises:
        UserError: A name or an argument is wrong, or is not for the task of the data.
    """
    loss = loss_registry.complete(settle("loss", config.loss, data.task))
    model = model_registry.complete(settle("model", config.model, data.task))
    check_task("loss", loss, data.task)
    check_task("model", model, data.task)
    check_class_weights(loss, data.num_outputs)
    return config.model_copy(
        update={
            "data": data_registry.complete(config.data),
            "model": model,
            "loss": loss,
            "optimizer": optimizer_registry.complete(settle("optimizer", config.optimizer, data.task)),
            "scheduler": scheduler_registry.complete(config.scheduler),
        }
    )


def _device(name: str) -> torch.device:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, is_there in available.items() if is_there))
    device = torch.device(name)
    there = available[device.type] and (device.type != "cuda" or (device.index or 0) < torch.cuda.device_count())
    if not there:
        usable = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise UserError(f"device is {name!r}, which this machine does not have: choose one of auto, {usable}")
    return device


def _in_precision(model: nn.Module, precision: str) -> nn.Module:
    if precision != "bf16-true":
        return model

    def cast(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x.bfloat16() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in arguments)

    model.register_forward_pre_hook(cast)
    return model.to(torch.bfloat16)


def _planned_updates(config: TrainConfig, data: Data, loader: DataLoader[Any]) -> int | None:
    if isinstance(data.train, IterableDataset):
        return None
    steps = config.num_micro_batches_per_window
    if config.tail == "carry":  # one long pass: only the last epoch's tail is a shorter window
        return num_updates(len(loader) * config.epochs, steps=steps)
    planned = config.epochs * num_updates(loader, steps=steps, tail=config.tail)
    if planned == 0:
        raise UserError(
            f"tail is 'drop' and an epoch has {len(loader)} micro-batches, fewer than the {steps} of a window: nothing "
            "would be trained; lower steps, or choose tail: keep"
        )
    return planned


def _scheduler(
    config: TrainConfig, optimizer: Optimizer, planned: int | None
) -> LRScheduler | ReduceLROnPlateau | None:
    takes_horizon = "num_updates" in {p.name for p in scheduler_registry.parameters(config.scheduler)}
    if takes_horizon and planned is None:
        raise UserError(
            f"scheduler {config.scheduler.name!r} needs the number of updates, but the training set has no length: "
            "give the data set a length, or choose scheduler: none, step or plateau"
        )
    made = scheduler_registry.make(config.scheduler, optimizer, num_updates=planned)
    if made is not None and not isinstance(made, LRScheduler | ReduceLROnPlateau):
        raise UserError(
            f"scheduler {config.scheduler.name!r} gave {type(made).__name__}: it must give a torch scheduler"
        )
    return made
