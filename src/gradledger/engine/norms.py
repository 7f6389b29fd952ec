"""BatchNorm over a window: running statistics that move once per update, by the statistics of all its samples.

In training mode a BatchNorm normalises each micro-batch by the micro-batch's own mean and variance, and moves its
running statistics with each of them. The second is repaired here: the micro-batches' statistics are pooled (Chan et
al., 1979) and the running statistics move once, when the window closes. For a BatchNorm whose inputs are those of the
whole batch, such as a first layer, that is what the whole batch would have done. The first remains: activations, and so
gradients, are those of small batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradledger.errors import UserError

BatchNormStatistics = Literal["micro-batch", "pooled"]
"""When the running statistics of BatchNorm move: with every micro-batch, or once per window by pooled statistics."""


def pooled_statistics(model: nn.Module, when: BatchNormStatistics) -> PooledStatistics | None:
    """The pooled statistics of a model's BatchNorm layers, or None where they move as torch moves them.

    Raises:
        UserError: The choice is unknown, or there is no such layer.
    """
    if when not in get_args(BatchNormStatistics):
        raise UserError(f"batch_norm={when!r}: choose one of {', '.join(map(repr, get_args(BatchNormStatistics)))}")
    return PooledStatistics(model) if when == "pooled" else None


class PooledStatistics:
    """Holds the running statistics of a model's BatchNorm layers still in a window, and moves them once at its end.

    Args:
        model: The model; its layers in training mode that track running statistics take part.

    Raises:
        UserError: There is no such layer.

    Example:
        >>> import torch
        >>> norm, whole = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
        >>> inputs = torch.randn(10, 2)
        >>> pooled = PooledStatistics(norm)
        >>> pooled.begin()
        >>> _ = norm(inputs[:7]), norm(inputs[7:])
        >>> pooled.end(commit=True)
        >>> _ = whole(inputs)
        >>> torch.allclose(norm.running_var, whole.running_var), norm.num_batches_tracked.item()
        (True, 1)
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [
            _Layer(module)
            for module in model.modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
        ]
        if not self._layers:
            raise UserError(
                "batch_norm='pooled' was given, but the model has no BatchNorm layer that tracks running statistics: "
                "leave it out"
            )

    def begin(self) -> None:
        """From here on, forwards in training mode are counted and leave the running statistics alone."""
        for layer in self._layers:
            layer.begin()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, forwards are not counted either: they repeat earlier ones."""
        before = [layer.is_paused for layer in self._layers]
        for layer in self._layers:
            layer.is_paused = True
        try:
            yield
        finally:
            for layer, was_paused in zip(self._layers, before, strict=True):
                layer.is_paused = was_paused

    def end(self, *, commit: bool) -> None:
        """Back to normal; ``commit`` moves the running statistics by what was counted."""
        for layer in self._layers:
            layer.end(commit=commit)

    def state_dict(self) -> list[list[Any]]:
        """What each layer has counted in the open window."""
        return [layer.counted for layer in self._layers]

    def load_state_dict(self, state: Sequence[list[Any]]) -> None:
        """Go on from what was counted."""
        for layer, counted in zip(self._layers, state, strict=True):
            layer.counted = counted


class _Layer:
    """One BatchNorm and the statistics of the inputs that it saw in this window."""

    def __init__(self, module: _BatchNorm) -> None:
        self._module = module
        self._hooks: list[Any] = []
        self._kept: dict[str, Any] | None = None
        self.is_paused = False
        self._num_values = 0
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None  # the sum of squared deviations from the mean

    def begin(self) -> None:
        self._hooks = [
            self._module.register_forward_pre_hook(self._lend_scratch),
            self._module.register_forward_hook(self._collect, always_call=True),
        ]

    def end(self, *, commit: bool) -> None:
        self._give_back()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if commit and self._num_values > 1:
            self._move()
        self._forget()

    @property
    def counted(self) -> list[Any]:
        """The number of values, their mean and their squared deviations, so far."""
        return [self._num_values, self._mean, self._squares]

    @counted.setter
    def counted(self, counted: list[Any]) -> None:
        device = None if self._module.running_mean is None else self._module.running_mean.device
        self._num_values = counted[0]
        self._mean, self._squares = (None if value is None else value.to(device) for value in counted[1:])

    def _forget(self) -> None:
        self._num_values, self._mean, self._squares = 0, None, None

    def _lend_scratch(self, module: _BatchNorm, _inputs: Any) -> None:
        """With momentum 1 the layer's own kernel writes the micro-batch's statistics into its running ones."""
        if not module.training:
            return
        names = ("running_mean", "running_var", "num_batches_tracked", "momentum")
        self._kept = {name: getattr(module, name) for name in names}
        module.running_mean = torch.zeros_like(self._kept["running_mean"])
        module.running_var = torch.zeros_like(self._kept["running_var"])
        module.num_batches_tracked = None
        module.momentum = 1.0

    def _collect(self, module: _BatchNorm, inputs: tuple[Tensor, ...], output: Any) -> None:
        if self._kept is None:
            return
        mean, variance = module.running_mean, module.running_var
        self._give_back()
        if self.is_paused or output is None or mean is None or variance is None:
            return
        num_values = inputs[0].numel() // mean.numel()
        self._pool(num_values, mean, variance * (num_values - 1))

    def _pool(self, num_values: int, mean: Tensor, squares: Tensor) -> None:
        if self._mean is None or self._squares is None:
            self._num_values, self._mean, self._squares = num_values, mean, squares
            return
        total = self._num_values + num_values
        gap = mean - self._mean
        self._squares = self._squares + squares + gap.square() * (self._num_values * num_values / total)
        self._mean = self._mean + gap * (num_values / total)
        self._num_values = total

    def _give_back(self) -> None:
        if self._kept is not None:
            for name, value in self._kept.items():
                setattr(self._module, name, value)
            self._kept = None

    def _move(self) -> None:
        module = self._module
        assert module.running_mean is not None
        assert module.running_var is not None
        assert self._mean is not None
        assert self._squares is not None
        with torch.no_grad():
            factor = module.momentum
            if module.num_batches_tracked is not None:
                module.num_batches_tracked.add_(1)
                factor = 1.0 / module.num_batches_tracked.item() if factor is None else factor
            module.running_mean.lerp_(self._mean, float(factor or 0.0))
            module.running_var.lerp_(self._squares / (self._num_values - 1), float(factor or 0.0))
