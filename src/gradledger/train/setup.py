"""From a configuration to things: data, model, loss, optimizer, scheduler and the accumulator around them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader, IterableDataset

from gradledger.engine import Accumulator, num_updates
from gradledger.engine.counters import Counter
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
from gradledger.train.config import AUTO_SIZE, TrainConfig
from gradledger.train.data import Data, as_data, fingerprint, length_of
from gradledger.train.devices import choose_device
from gradledger.train.loading import Share, make_loader
from gradledger.train.parallel import parallel_registry, wrap
from gradledger.train.ranks import RunRanks, check_joined


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
        ranks: Those that train together.
        share: This rank's part of the micro-batches.
    """

    config: TrainConfig
    data: Data
    model: nn.Module
    loss: LossFunction
    weight: Counter | None
    optimizer: Optimizer
    scheduler: LRScheduler | ReduceLROnPlateau | None
    loader: DataLoader[Any]
    device: torch.device
    num_planned_updates: int | None
    ranks: RunRanks
    share: Share


def load_data(config: TrainConfig) -> Data:
    """The data sets that a configuration names."""
    return as_data(data_registry.make(data_registry.complete(config.data)), config.data.name)


def prepare(
    config: TrainConfig, data: Data | None = None, ranks: RunRanks | None = None, *, cache: bool = True
) -> Setup:
    """Make everything, from the configuration's seed.

    Args:
        config: What to make.
        data: The data sets where they are loaded already.
        ranks: Those that train together; None: this process alone.
        cache: A measured micro-batch size may come from an earlier run, and is kept for later ones.

    Raises:
        UserError: A name, an argument or the device is wrong, or things do not fit together.
    """
    ranks = ranks or RunRanks()
    check_joined(ranks)
    things = ranks.together(lambda: _make_things(config, data, ranks), "preparation of the model")
    _check_alike(things.data, ranks)
    if things.config.micro_batch_size == AUTO_SIZE:
        most = ranks.together(lambda: _measured_size(things, cache=cache), "measuring of the micro-batch size")
        smallest = min(ranks.gather(most, "agreement about the micro-batch size"))
        things = things._replace(config=things.config.sized(smallest))
    model = wrap(things.model, things.config.parallel, ranks)  # ranks wait for each other in here
    return ranks.together(lambda: _assemble(things, model, ranks), "preparation of the optimizer")


class _Things(NamedTuple):
    config: TrainConfig
    data: Data
    device: torch.device
    model: nn.Module
    loss: LossFunction


def _make_things(config: TrainConfig, data: Data | None, ranks: RunRanks) -> _Things:
    """What each rank makes by itself, alike on all."""
    set_seed(config.seed)
    data = load_data(config) if data is None else data
    config = complete(config, data, ranks.size)
    device = choose_device(config.device, config.num_ranks)
    set_seed(config.seed)
    model = model_registry.make(config.model, input_shape=data.input_shape, num_outputs=data.num_outputs)
    if not isinstance(model, nn.Module):
        raise UserError(f"model {config.model.name!r} gave {type(model).__name__}: it must give a torch.nn.Module")
    return _Things(config, data, device, _in_precision(model.to(device), config.precision), make_loss(config.loss))


def _check_alike(data: Data, ranks: RunRanks) -> None:
    """Ranks share out one data set: where each made another, samples would be seen twice, or never."""
    seen = ranks.gather(fingerprint(data), "comparison of the data")
    unlike = [rank for rank, other in enumerate(seen) if other != seen[0]]
    if unlike:
        raise UserError(
            f"the ranks made unlike data: rank 0 has {seen[0]}, rank {unlike[0]} has {seen[unlike[0]]}; data must not "
            "depend on the rank or on chance, since each rank trains on its share of one and the same"
        )


def _optimizer(config: TrainConfig, model: nn.Module) -> Optimizer:
    optimizer: Optimizer = optimizer_registry.make(config.optimizer, model.parameters())
    return optimizer


def _measured_size(things: _Things, *, cache: bool) -> int:
    """The micro-batch size that is fastest of those that fit, for one rank's part of the effective batch."""
    config, data, device, model, loss = things
    if isinstance(data.train, IterableDataset):
        raise UserError(
            "micro_batch_size is auto, but the training set has no length, so no samples can be taken for measuring "
            "without losing them: give a number"
        )
    assert config.effective_batch_size is not None
    accumulator = Accumulator(
        model.train(),
        _optimizer(config, model),
        precision=config.precision,
        device=device,
        checkpointing=config.checkpointing,
        offload=config.offload,
        sync="none",
    )
    batch = next(iter(make_loader(data.train, config.effective_batch_size // config.num_ranks, config.seed)))
    return accumulator.fitting_size(batch, lambda model, each: loss(model(each[0]), each[1]), cache=cache)


def _assemble(things: _Things, model: nn.Module, ranks: RunRanks) -> Setup:
    config, data, device, _, loss = things
    optimizer = _optimizer(config, model)
    share = Share.of(ranks.rank, config)
    loader = make_loader(data.train, config.micro_batch_size, config.seed, share)
    planned = _planned_updates(config, data)
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
        ranks=ranks,
        share=share,
    )


def set_seed(seed: int, rank: int = 0) -> None:
    """Start every random state afresh, on each rank in its own way."""
    seed = (seed + 1_000_003 * rank) % 2**32
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


def complete(config: TrainConfig, data: Data, num_ranks: int = 1) -> TrainConfig:
    """The configuration with ``auto`` settled and every default written out.

    Raises:
        UserError: A name or an argument is wrong, or is not for the task of the data.
    """
    loss = loss_registry.complete(settle("loss", config.loss, data.task))
    model = model_registry.complete(settle("model", config.model, data.task))
    check_task("loss", loss, data.task)
    check_task("model", model, data.task)
    check_class_weights(loss, data.num_outputs)
    return config.over_ranks(num_ranks).model_copy(
        update={
            "parallel": parallel_registry.complete(config.parallel),
            "data": data_registry.complete(config.data),
            "model": model,
            "loss": loss,
            "optimizer": optimizer_registry.complete(settle("optimizer", config.optimizer, data.task)),
            "scheduler": scheduler_registry.complete(config.scheduler),
        }
    )


def _in_precision(model: nn.Module, precision: str) -> nn.Module:
    if precision != "bf16-true":
        return model

    def cast(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x.bfloat16() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in arguments)

    model.register_forward_pre_hook(cast)
    return model.to(torch.bfloat16)


def _planned_updates(config: TrainConfig, data: Data) -> int | None:
    """The updates of all epochs.

    Raises:
        UserError: There would be none, or not every rank would have a micro-batch.
    """
    if isinstance(data.train, IterableDataset):
        if config.num_ranks > 1 and config.tail != "keep":
            raise UserError(
                f"tail is {config.tail!r}, but the training set has no length to share out over {config.num_ranks} "
                "ranks: choose tail: keep, or give the data set a length"
            )
        return None
    num_samples, steps = length_of(data.train), config.num_ranks * config.num_micro_batches_per_window
    num_micro_batches = -(-num_samples // config.micro_batch_size)
    if num_micro_batches < config.num_ranks:
        raise UserError(
            f"the training set has {num_samples} samples, or {num_micro_batches} micro-batches of "
            f"{config.micro_batch_size}, for {config.num_ranks} ranks: lower micro_batch_size, or start fewer ranks"
        )
    if config.tail == "carry":  # one long pass: only the last epoch's tail is a shorter window
        return num_updates(num_micro_batches * config.epochs, steps=steps)
    planned = config.epochs * num_updates(num_micro_batches, steps=steps, tail=config.tail)
    if planned == 0:
        raise UserError(
            f"tail is 'drop' and an epoch has {num_micro_batches} micro-batches, fewer than the {steps} of a window: "
            "nothing would be trained; lower steps, or choose tail: keep"
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
