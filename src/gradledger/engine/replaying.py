"""Optimizers that evaluate the loss themselves (L-BFGS, SAM): a window that can be run again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

LossFunction = Callable[[nn.Module, Any], Tensor]
"""``loss_fn(model, micro_batch)`` gives the mean loss of a micro-batch, a scalar."""


_closure_kinds: WeakKeyDictionary[type[Optimizer], bool] = WeakKeyDictionary()


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether the optimizer's ``step`` cannot be called without a closure, as L-BFGS's."""
    kind = type(optimizer)
    known = _closure_kinds.get(kind)
    if known is None:
        parameter = inspect.signature(kind.step).parameters.get("closure")
        known = parameter is not None and parameter.default is inspect.Parameter.empty
        _closure_kinds[kind] = known
    return known


class Closure:
    """What a closure optimizer calls: the whole window's loss, with its gradients in ``.grad``.

    The window has been run once when the step begins. A call before any parameter changed gives that result; every
    later call runs the window again, with the random numbers (dropout) of the first run.

    Args:
        run: Runs the window from cleared gradients to clipped ones, and returns its loss.
        loss: The loss of the first run.
        parameters: The parameters whose change makes a new run necessary.
        random_state: The generators' states at the beginning of the first run.
    """

    def __init__(
        self, run: Callable[[], Tensor], loss: Tensor, parameters: Sequence[Tensor], random_state: RandomState
    ) -> None:
        self._run = run
        self._loss = loss
        self._parameters = parameters
        self._random_state = random_state
        self._versions = self._present_versions()

    def __call__(self) -> Tensor:
        """The loss of the effective batch at the present parameters."""
        if self._present_versions() != self._versions:
            self._random_state.restore()
            with torch.enable_grad():
                self._loss = self._run()
            self._versions = self._present_versions()
        return self._loss

    def _present_versions(self) -> list[int]:
        return [parameter._version for parameter in self._parameters]


class RandomState:
    """The state of the CPU's generator and of one accelerator's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu = torch.get_rng_state()
        self._accelerator = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)

    def restore(self) -> None:
        """Go back to it."""
        torch.set_rng_state(self._cpu)
        if self._accelerator is not None:
            torch.get_device_module(self._device).set_rng_state(self._accelerator, self._device)
