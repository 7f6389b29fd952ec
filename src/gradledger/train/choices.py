"""What the names in a configuration stand for: data, models, losses, optimizers and schedulers."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler

from gradledger.engine.counters import Counter, class_weights, tokens
from gradledger.errors import UserError
from gradledger.train.config import Choice
from gradledger.train.data import DATA, IGNORED_LABEL, Task
from gradledger.train.models import MODELS
from gradledger.train.registry import Registry


class LossFunction(Protocol):
    """The mean loss of a micro-batch.

    Where the mean is not over samples, a method ``count_units(micro_batch)`` says what it is over.
    """

    def __call__(self, outputs: Any, labels: Tensor) -> Tensor:
        """A scalar."""
        ...


class CrossEntropy:
    """The mean cross entropy of classes, or of the tokens that count.

    Args:
        label_smoothing: Share of the target spread over all classes.
        class_weights: What each class counts; the mean is over the sum of them. Empty: all count 1.
    """

    def __init__(self, *, label_smoothing: float = 0.0, class_weights: tuple[float, ...] = ()) -> None:
        self._label_smoothing = label_smoothing
        self._class_weights = torch.tensor(class_weights, dtype=torch.float32) if class_weights else None

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Logits of shape (samples, classes) or (samples, positions, tokens)."""
        weights = self._class_weights
        return F.cross_entropy(
            outputs.flatten(0, -2),
            labels.flatten(),
            weight=None if weights is None else weights.to(outputs.device),
            ignore_index=IGNORED_LABEL,
            label_smoothing=self._label_smoothing,
        )

    def weight(self, task: Task) -> Counter | None:
        """Counts what the mean is over; None: samples."""
        if self._class_weights is not None:
            return class_weights(self._class_weights, ignore_index=IGNORED_LABEL)
        return tokens(IGNORED_LABEL) if task == "language-model" else None


def mean_squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """The mean of squared differences."""
    return F.mse_loss(_like(labels, outputs), labels)


def mean_absolute_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """The mean of absolute differences."""
    return F.l1_loss(_like(labels, outputs), labels)


def huber(outputs: Tensor, labels: Tensor, *, delta: float = 1.0) -> Tensor:
    """Squared below ``delta``, absolute above it."""
    return F.huber_loss(_like(labels, outputs), labels, delta=delta)


def _like(labels: Tensor, outputs: Tensor) -> Tensor:
    """One output a sample for labels without a dimension of their own: (samples, 1) as (samples,), not broadcast."""
    return outputs.reshape(labels.shape) if outputs.numel() == labels.numel() else outputs


def no_scheduler(optimizer: Optimizer) -> None:
    """The learning rate stays as it is."""


def cosine(optimizer: Optimizer, num_updates: int, *, min_lr: float = 0.0) -> Any:
    """Half a cosine from the learning rate to ``min_lr``, over all updates."""
    return lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_updates, eta_min=min_lr)


def linear(optimizer: Optimizer, num_updates: int, *, end_factor: float = 0.0) -> Any:
    """A straight line from the learning rate to ``end_factor`` of it, over all updates."""
    return lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=end_factor, total_iters=num_updates)


def warm_up_cosine(
    optimizer: Optimizer, num_updates: int, *, warm_up_fraction: float = 0.1, min_factor: float = 0.0
) -> Any:
    """A straight line up to the learning rate over a share of all updates, then half a cosine down."""
    num_warm_up = max(round(num_updates * warm_up_fraction), 1)

    def factor(update: int) -> float:
        if update < num_warm_up:
            return (update + 1) / num_warm_up
        progress = min((update - num_warm_up) / max(num_updates - num_warm_up, 1), 1.0)
        return min_factor + (1 - min_factor) * (1 + math.cos(math.pi * progress)) / 2

    return lr_scheduler.LambdaLR(optimizer, factor)


def one_cycle(optimizer: Optimizer, num_updates: int, *, max_lr: float = 0.1) -> Any:
    """Up to ``max_lr`` and down again, over all updates."""
    return lr_scheduler.OneCycleLR(optimizer, max_lr=max_lr, total_steps=num_updates)


def step(optimizer: Optimizer, *, every_updates: int = 100, factor: float = 0.5) -> Any:
    """Multiply the learning rate by ``factor`` after every so many updates."""
    return lr_scheduler.StepLR(optimizer, step_size=every_updates, gamma=factor)


def plateau(optimizer: Optimizer, *, factor: float = 0.1, patience: int = 3) -> Any:
    """Multiply the learning rate by ``factor`` when the validation loss has not fallen for ``patience`` epochs."""
    return lr_scheduler.ReduceLROnPlateau(optimizer, factor=factor, patience=patience)


_NEEDS_A_CLOSURE = {"LBFGS"}
_OPTIMIZERS: dict[str, Callable[..., Any]] = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, Optimizer) and kind is not Optimizer and name not in _NEEDS_A_CLOSURE
}

data_registry = Registry("data", DATA)
model_registry = Registry("model", MODELS, reserved=frozenset({"input_shape", "num_outputs"}))
_LOSSES: dict[str, Callable[..., Any]] = {
    "cross-entropy": CrossEntropy,
    "mse": mean_squared_error,
    "l1": mean_absolute_error,
    "huber": huber,
}
loss_registry = Registry("loss", _LOSSES, num_leading=2, classes_are_made=True)
optimizer_registry = Registry("optimizer", _OPTIMIZERS, num_leading=1)
scheduler_registry = Registry(
    "scheduler",
    {
        "none": no_scheduler,
        "cosine": cosine,
        "linear": linear,
        "warm-up-cosine": warm_up_cosine,
        "one-cycle": one_cycle,
        "step": step,
        "plateau": plateau,
    },
    num_leading=1,
    reserved=frozenset({"num_updates"}),
)

_SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
_AUTO: dict[Task, dict[str, dict[str, Any]]] = {
    "classification": {"model": {"name": "mlp"}, "loss": {"name": "cross-entropy"}, "optimizer": _SGD},
    "regression": {"model": {"name": "mlp"}, "loss": {"name": "mse"}, "optimizer": {**_SGD, "lr": 0.01}},
    "language-model": {
        "model": {"name": "transformer"},
        "loss": {"name": "cross-entropy"},
        "optimizer": {"name": "adamw", "lr": 3e-3},
    },
}
"""What ``auto`` stands for, by task."""


def settle(key: str, choice: Choice, task: Task) -> Choice:
    """The choice itself, or what ``auto`` stands for with the choice's arguments over it."""
    if choice.name != "auto":
        return choice
    return Choice.model_validate({**_AUTO[task][key], **choice.arguments})


def make_loss(choice: Choice) -> LossFunction:
    """The loss function that a choice names, with its arguments.

    Raises:
        UserError: It cannot be called as one.
    """
    function = loss_registry.find(choice.name)
    loss: LossFunction
    if inspect.isclass(function):
        loss = cast(LossFunction, loss_registry.make(choice))
    else:
        loss = functools.partial(function, **choice.arguments) if choice.arguments else function
    try:
        inspect.signature(loss).bind("outputs", "labels")
    except TypeError as error:
        raise UserError(f"loss {choice.name!r} cannot be called as loss(outputs, labels): {error}") from None
    except ValueError:  # some built-ins do not tell their arguments
        pass
    return loss


def weight_of(loss: LossFunction, task: Task) -> Counter | None:
    """Counts what a micro-batch's mean loss is over; None where that is samples."""
    if isinstance(loss, CrossEntropy):
        return loss.weight(task)
    counter: Counter | None = getattr(loss, "count_units", None)
    return counter


_TASKS_OF: dict[str, dict[str, tuple[Task, ...]]] = {
    "model": {
        "linear": ("classification", "regression"),
        "mlp": ("classification", "regression"),
        "cnn": ("classification", "regression"),
        "transformer": ("language-model",),
    },
    "loss": {
        "cross-entropy": ("classification", "language-model"),
        "mse": ("regression",),
        "l1": ("regression",),
        "huber": ("regression",),
    },
}
"""What each built-in is made for."""


def check_task(key: str, choice: Choice, task: Task) -> None:
    """A built-in must be made for the task.

    Raises:
        UserError: It is not.
    """
    tasks = _TASKS_OF[key].get(choice.name, (task,))
    if task not in tasks:
        fitting = [name for name, its_tasks in _TASKS_OF[key].items() if task in its_tasks]
        raise UserError(
            f"{key} {choice.name!r} is for {' or '.join(tasks)}, but the data are for {task}: choose "
            f"{' or '.join(fitting)}, or your own package.module:callable"
        )


def check_class_weights(choice: Choice, num_classes: int) -> None:
    """There must be one weight a class.

    Raises:
        UserError: There are more or fewer.
    """
    weights = choice.arguments.get("class_weights")
    if choice.name == "cross-entropy" and weights and len(weights) != num_classes:
        raise UserError(f"loss.class_weights has {len(weights)} numbers for {num_classes} classes: give one a class")
