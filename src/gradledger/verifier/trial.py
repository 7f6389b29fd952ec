"""One way to run the user's model and loss: in which precision, and with which random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from gradledger.engine.accumulator import Accumulator
from gradledger.engine.batches.nesting import count_samples
from gradledger.engine.batches.splitting import split_batch
from gradledger.engine.weights import PER_WINDOW, UnitWeights, Weight, WeightTable
from gradledger.errors import UserError
from gradledger.ledger import Reduction
from gradledger.verifier.float64 import in_float64
from gradledger.verifier.pinning import Layout, PinnedCalls, RandomCalls
from gradledger.verifier.sandbox import copy_of, copy_of_batch

LossFunction = Callable[[nn.Module, Any], Tensor | Mapping[str, Tensor]]
"""``loss_fn(model, micro_batch)`` gives the loss, or a mapping of losses by the unit that each is a mean over."""

Gradient = dict[str, Tensor]
"""The gradient of each parameter that has one, by name, in float64."""

_SCALE_16 = 1024.0
_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Task:
    """What the user wants to know."""

    model: nn.Module
    loss_fn: LossFunction
    batch: Any
    micro_batch_size: int
    weight: Weight | Mapping[str, Weight] | None = None
    reduction: Reduction = "mean"
    precision: str = "32-true"
    accumulate_dtype: torch.dtype | None = None
    seed: int = 0


@dataclass(frozen=True)
class Trial:
    """One way to run a task.

    Args:
        task: What the user wants to know.
        dtype: The type that model and batch are copied to; None leaves them, and runs in the task's precision.
        layouts: Where the samples are in each random call, to pin its draws; None leaves random calls alone.
        without_dropout: Dropout probabilities are 0.
        only: The one term of the loss that counts, by its unit; None is all of them.
    """

    task: Task
    dtype: torch.dtype | None = None
    layouts: Sequence[Layout] | None = None
    without_dropout: bool = False
    only: str | None = None
    precision: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", self.task.precision if self.dtype is None else "32-true")

    @property
    def resolution(self) -> float:
        """Relative differences below this are rounding: the square root of the type's epsilon."""
        return float(torch.finfo(self.dtype or torch.float32).eps ** 0.5)

    def with_dtype(self, dtype: torch.dtype | None) -> Trial:
        """The same in another precision."""
        return replace(self, dtype=dtype)

    def fresh(self) -> nn.Module:
        """A new copy of the model."""
        model = copy_of(self.task.model, self.dtype)
        if self.without_dropout:
            turn_off_dropout(model)
        return model

    @cached_property
    def batch(self) -> Any:
        """The whole batch."""
        return copy_of_batch(self.task.batch, self.dtype)

    @cached_property
    def micro_batches(self) -> list[Any]:
        """The batch in parts."""
        return split_batch(self.batch, self.task.micro_batch_size)

    @cached_property
    def sizes(self) -> list[int]:
        """Samples of each micro-batch."""
        return [count_samples(micro_batch) for micro_batch in self.micro_batches]

    def losses(self, model: nn.Module, at: int | None = None) -> dict[str | None, Tensor]:
        """The losses of micro-batch ``at`` (None: of the whole batch), by unit; None is the first unit.

        Raises:
            UserError: The loss is no scalar that needs a gradient.
        """
        with self._conditions(model, at):
            losses = _by_unit(self.task.loss_fn(model, self.batch if at is None else self.micro_batches[at]))
            return losses if self.only is None else {self.only: losses[self.only]}

    @contextmanager
    def _conditions(self, model: nn.Module, at: int | None) -> Iterator[None]:
        """The precision and the random numbers of a forward."""
        with ExitStack() as stack:
            if self.dtype == torch.float64:
                stack.enter_context(in_float64())
            if self.precision in _AUTOCAST:
                device = next(model.parameters()).device.type
                stack.enter_context(torch.autocast(device, dtype=_AUTOCAST[self.precision]))
            if self.layouts is not None:
                first = 0 if at is None else sum(self.sizes[:at])
                size = sum(self.sizes) if at is None else self.sizes[at]
                stack.enter_context(
                    PinnedCalls(self.layouts, seed=self.task.seed, first_sample=first, num_samples=size)
                )
            yield

    @property
    def total_weight(self) -> float:
        """What sums over the whole batch are divided by; 1 for means."""
        return self.weights().total if self.task.reduction == "sum" else 1.0

    def weights(self) -> UnitWeights:
        """The micro-batches' weights in the loss's (first) unit."""
        table = WeightTable(self.task.weight)
        return table.weigh(self.micro_batches, self.only or table.primary_unit)

    def random_shapes(self, at: int | None = None) -> list[tuple[int, ...] | None]:
        """The shapes of the random calls of a forward."""
        calls = RandomCalls()
        with torch.no_grad(), calls:
            self.losses(self.fresh(), at)
        return calls.shapes

    def gradient(self, at: int | None = None, *, model: nn.Module | None = None, upstream: float = 1.0) -> Gradient:
        """The gradient of one loss, by a plain backward.

        Args:
            at: The micro-batch; None is the whole batch.
            model: The copy to use; None takes a new one.
            upstream: The gradient that the backward starts from.
        """
        model = self.fresh() if model is None else model
        scale = _SCALE_16 if self.precision == "16-mixed" else 1.0
        losses = list(self.losses(model, at).values())
        torch.autograd.backward(losses, [torch.full_like(loss, upstream * scale) for loss in losses])
        gradient = {
            name: parameter.grad.detach().double() / scale
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
        for parameter in model.parameters():
            parameter.grad = None
        if not gradient:
            raise UserError(
                "the loss reached no parameter of the model that loss_fn was given: use the argument `model` in it, "
                "not a model from outside"
            )
        return gradient

    def reference(self) -> Gradient:
        """The gradient that the micro-batches must come to: the mean over the whole batch."""
        total = self.total_weight
        return {name: gradient / total for name, gradient in self.gradient().items()}

    def accumulated(self) -> Gradient:
        """The gradient of the whole batch as the engine sums it up from the micro-batches."""
        model, task = self.fresh(), self.task
        capture = CapturingOptimizer(model)
        is_16 = self.precision == "16-mixed"
        scaler = torch.amp.GradScaler(next(model.parameters()).device.type, init_scale=_SCALE_16) if is_16 else None
        accumulator = Accumulator(
            model,
            capture,
            weight=task.weight,
            precision=self.precision,
            accumulate_dtype=task.accumulate_dtype if self.dtype is None else None,
            scaler=scaler,
            non_finite="skip-update",
        )
        for window in accumulator.windows(self.micro_batches, steps=len(self.micro_batches)):
            with window:
                for at, _ in enumerate(window):
                    terms = {u: loss for u, loss in self.losses(model, at).items() if u != PER_WINDOW or not at}
                    for position, (unit, loss) in enumerate(terms.items(), start=1):
                        retain = position < len(terms)
                        window.backward(loss, per=unit, reduction=task.reduction, retain_graph=retain)
            if window.skipped:
                raise UserError(f"the micro-batches make no update: {window.skip_reason}")
        return capture.captured


def turn_off_dropout(model: nn.Module) -> None:
    """Set dropout probabilities to 0: of dropout layers, and in attributes such as ``attention_dropout``."""
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


class CapturingOptimizer(Optimizer):
    """Steps by keeping the gradients, without changing a parameter."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
        if not self._names:
            raise UserError("the model has no parameter with requires_grad=True: there is no gradient to verify")
        super().__init__(list(self._names), {"lr": 0.0})
        self.captured: Gradient = {}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Keep the gradients."""
        self.captured = {n: p.grad.detach().double() for p, n in self._names.items() if p.grad is not None}


def _by_unit(losses: Any) -> dict[str | None, Tensor]:
    named: dict[str | None, Any] = dict(losses) if isinstance(losses, Mapping) else {None: losses}
    for loss in named.values():
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise UserError(f"loss_fn(model, micro_batch) must return a scalar loss, not {shape}")
        if not loss.requires_grad and torch.is_grad_enabled():
            raise UserError(
                "the loss of loss_fn needs no gradient: it does not depend on the model that loss_fn was given, or was "
                "detached"
            )
    return named
