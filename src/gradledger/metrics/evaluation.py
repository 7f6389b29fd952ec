"""One pass over a data set without gradients, that leaves no trace in the training around it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gradledger.errors import UserError
from gradledger.metrics.classification import ClassificationMetrics, classes_and_scores, classification_metrics
from gradledger.metrics.language import LanguageMeter, LanguageMetrics
from gradledger.metrics.regression import RegressionMetrics, regression_metrics

Task = Literal["classification", "regression", "language-model"]
Metrics = ClassificationMetrics | RegressionMetrics | LanguageMetrics


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A loss, and the metrics of the task.

    Args:
        loss: The weighted mean over the whole data set, not a mean of batch means.
        metrics: What the task is measured by.
    """

    loss: float
    metrics: Metrics

    def as_record(self) -> dict[str, Any]:
        """The loss and the metrics' fields in one flat mapping."""
        return {"loss": self.loss, **asdict(self.metrics)}


def import_torchmetrics() -> None:
    """Load what :func:`evaluate` otherwise loads when it is first called, which takes a second."""
    import torchmetrics.functional.classification
    import torchmetrics.functional.regression
    import torchmetrics.text  # noqa: F401


@dataclass(frozen=True, slots=True)
class Uncounted:
    """A batch that is run and counts nothing: other ranks need this one in their forward."""

    batch: tuple[Any, Tensor]


class _Meter(Protocol):
    def add(self, outputs: Tensor, labels: Tensor) -> None: ...
    def absorb(self, other: Any) -> None: ...
    def metrics(self) -> Metrics: ...


@dataclass(slots=True)
class _Part:
    """What one rank measured."""

    meter: Any
    loss_sum: float = 0.0
    total_weight: float = 0.0


def _alone(part: Any) -> list[Any]:
    return [part]


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Any, Tensor] | Uncounted],
    loss_fn: Callable[[Any, Tensor], Tensor],
    *,
    task: Task,
    num_classes: int | None = None,
    weight: Callable[[Any], float | Tensor] | None = None,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    gather: Callable[[Any], Sequence[Any]] = _alone,
) -> Evaluation:
    """Measure a model in evaluation mode, without gradients.

    The mode of every module and the random states of torch, numpy and Python are as before afterwards, so a run
    that evaluates trains exactly as one that does not.

    Args:
        model: The model; its outputs are logits, or values to regress.
        batches: Pairs of inputs and labels.
        loss_fn: ``loss_fn(outputs, labels)`` gives the mean loss of a batch.
        task: What is measured.
        num_classes: For classification.
        weight: Units that a batch's loss is a mean over; None counts samples.
        device: Where inputs and labels are moved.
        autocast: Gives the context for the forward passes.
        gather: Over several ranks, each with batches of its own: gives every rank's picklable part, in one order.

    Raises:
        UserError: There are no samples, or outputs and labels do not fit the task.

    Example:
        >>> model = nn.Linear(4, 3)
        >>> batches = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(2)]
        >>> measured = evaluate(model, batches, nn.functional.cross_entropy, task="classification", num_classes=3)
        >>> measured.metrics.num_samples
        16
    """
    own = _Part(_meter(task, num_classes))
    with _undisturbed(model, torch.device(device)), torch.no_grad():
        for given in batches:
            batch = given.batch if isinstance(given, Uncounted) else given
            inputs, labels = (_moved(part, device) for part in batch)
            with autocast():
                outputs = model(inputs)
                loss = loss_fn(outputs, labels)
            if isinstance(given, Uncounted):
                continue
            own_weight = float(len(labels) if weight is None else weight(batch))
            if own_weight:
                own.loss_sum += float(loss) * own_weight
                own.total_weight += own_weight
            own.meter.add(outputs, labels)
    first, *others = gather(own)
    for other in others:
        first.meter.absorb(other.meter)
        first.loss_sum += other.loss_sum
        first.total_weight += other.total_weight
    metrics = first.meter.metrics()
    if first.total_weight == 0:
        raise UserError("the total weight of the samples is 0: a loss over nothing has no mean")
    return Evaluation(first.loss_sum / first.total_weight, metrics)


class _ClassificationMeter:
    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._labels: list[Tensor] = []
        self._predictions: list[Tensor] = []
        self._scores: list[Tensor] = []

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        predictions, scores = classes_and_scores(outputs)
        self._labels.append(labels.reshape(-1).long().cpu())
        self._predictions.append(predictions.cpu())
        if scores is not None:
            self._scores.append(scores.cpu())

    def absorb(self, other: _ClassificationMeter) -> None:
        self._labels += other._labels
        self._predictions += other._predictions
        self._scores += other._scores

    def metrics(self) -> ClassificationMetrics:
        return classification_metrics(
            _joined(self._labels),
            _joined(self._predictions),
            num_classes=self._num_classes,
            scores=_joined(self._scores) if self._scores else None,
        )


class _RegressionMeter:
    def __init__(self) -> None:
        self._targets: list[Tensor] = []
        self._predictions: list[Tensor] = []

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        self._targets.append(labels.cpu())
        one_a_sample = outputs.numel() == labels.numel()
        self._predictions.append((outputs.reshape(labels.shape) if one_a_sample else outputs).cpu())

    def absorb(self, other: _RegressionMeter) -> None:
        self._targets += other._targets
        self._predictions += other._predictions

    def metrics(self) -> RegressionMetrics:
        return regression_metrics(_joined(self._targets), _joined(self._predictions))


def _meter(task: Task, num_classes: int | None) -> _Meter:
    if task == "classification":
        if num_classes is None:
            raise UserError("num_classes is None: classification needs the number of classes")
        return _ClassificationMeter(num_classes)
    return LanguageMeter() if task == "language-model" else _RegressionMeter()


def _joined(pieces: list[Tensor]) -> Tensor:
    return torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.int64)


def _moved(part: Any, device: torch.device | str) -> Any:
    if isinstance(part, Tensor):
        return part.to(device, non_blocking=True)
    if isinstance(part, dict):
        return {key: _moved(value, device) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return type(part)(_moved(value, device) for value in part)
    return part


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode; every module's own mode and all random states come back."""
    modes = [(module, module.training) for module in model.modules()]
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    device_state = _rng_state(device)
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        _set_rng_state(device, device_state)


def _rng_state(device: torch.device) -> Tensor | None:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else None


def _set_rng_state(device: torch.device, state: Tensor | None) -> None:
    if state is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif state is not None:
        torch.mps.set_rng_state(state)
