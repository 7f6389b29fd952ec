"""Optimizers that evaluate the loss themselves (L-BFGS, SAM): a window that can be run again."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradledger.engine.rewinding import Generators

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

    The window has been run once when the step begins. L-BFGS first asks for just that result and gets it; every other
    call runs the window again, with the random numbers (dropout) of the first run. Other optimizers may have moved
    parameters before they ask (SAM does), even behind autograd's back, so for them each call is a run.

    Args:
        run: Runs the window from cleared gradients to clipped ones, and returns its loss.
        loss: The loss of the first run.
        optimizer: Who asks.
        generators: The random generators at the beginning of the first run.
    """

    def __init__(self, run: Callable[[], Tensor], loss: Tensor, optimizer: Optimizer, generators: Generators) -> None:
        self._run = run
        self._first_loss = loss if isinstance(optimizer, torch.optim.LBFGS) else None
        self._generators = generators

    def __call__(self) -> Tensor:
        """The loss of the effective batch at the present parameters."""
        if self._first_loss is not None:
            loss, self._first_loss = self._first_loss, None
            return loss
        self._generators.restore()
        with torch.enable_grad():
            return self._run()
