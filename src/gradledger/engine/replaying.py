"""Optimizers that evaluate the loss themselves (L-BFGS, SAM): a window that can be run again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import copy
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradledger.engine.closing import prepare_gradient
from gradledger.engine.memory.limits import is_out_of_memory
from gradledger.engine.rewinding import Generators

if TYPE_CHECKING:
    from gradledger.engine.memory.recovering import Recovery
    from gradledger.engine.record import WindowRecord
    from gradledger.engine.window import Window

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


class _NotFiniteError(Exception):
    """An evaluation's gradient is not finite, and the policy is to skip the update."""


class Replay:
    """A window that runs once before its close, and again as often as the optimizer asks for its loss.

    L-BFGS first asks for just the result of that run and gets it; every other call runs the window again, with the
    random numbers (dropout) of the first run. Other optimizers may have moved parameters before they ask (SAM does),
    even behind autograd's back, so for them each call is a run.

    Where memory runs out, all is as it was before the window and the window begins anew with smaller micro-batches.

    Args:
        window: The open window.
        loss_fn: Gives the mean loss of a micro-batch.
        recovery: Runs the window.
    """

    def __init__(self, window: Window, loss_fn: LossFunction, recovery: Recovery) -> None:
        self._window = window
        self._loss_fn = loss_fn
        self._recovery = recovery
        self._account = window._accumulator._account
        self._generators = Generators({parameter.device for parameter in self._account.parameters})
        self._known_loss: Tensor | None = None
        self._is_evaluating = False

    def run(self) -> None:
        """The first run."""
        self._recovery.run(self._loss_fn)

    def step(self, record: WindowRecord) -> bool:
        """Let the optimizer step once. The record keeps what the first run came to.

        Returns:
            Whether it stepped. Where it did not, and after an error, parameters and optimizer are as they were.
        """
        optimizer = self._account.optimizer
        undo = _Undo(optimizer, self._account.parameters)
        while True:
            first = _Run(self._window)
            record.terms, record.losses = first.terms, first.losses
            loss = self._window._loss = self._window._present_loss()
            self._known_loss = self._as_tensor(loss) if isinstance(optimizer, torch.optim.LBFGS) else None
            try:
                failure = self._try_step(optimizer)
            except BaseException as error:
                undo.restore()
                if isinstance(error, _NotFiniteError):
                    first.restore()
                    return False
                raise
            if failure is None:
                first.restore()
                return True
            undo.restore()
            self._begin_anew(failure, record)

    def _try_step(self, optimizer: Optimizer) -> Exception | None:
        """One step; an error that smaller micro-batches may help against is returned."""
        try:
            optimizer.step(self)  # type: ignore[arg-type]  # a closure may return a tensor
        except Exception as error:
            if not (self._is_evaluating and is_out_of_memory(error)):
                raise
            return error
        finally:
            self._is_evaluating = False
        return None

    def __call__(self) -> Tensor:
        """The loss of the effective batch at the present parameters, its gradient in ``.grad``."""
        if self._known_loss is not None:
            loss, self._known_loss = self._known_loss, None
            return loss
        window = self._window
        self._is_evaluating = True
        self._generators.restore()
        window._rewind()
        with torch.enable_grad(), window._accumulator._precision.autocast() or nullcontext():
            self._recovery.run_again(self._loss_fn)
        window._settle_all()
        again = copy(window._record)
        again.terms, again.losses = window._terms, window._losses
        self._prepare(again)
        self._is_evaluating = False
        return self._as_tensor(window._present_loss())

    def _begin_anew(self, error: Exception, record: WindowRecord) -> None:
        self._recovery.restart(error)
        with torch.enable_grad(), self._window._accumulator._precision.autocast() or nullcontext():
            self._recovery.run(self._loss_fn)
        self._window._settle_all()
        record.terms, record.losses = self._window._terms, self._window._losses
        self._prepare(record)

    def _prepare(self, record: WindowRecord) -> None:
        """Make a run's gradient ready for the optimizer."""
        accumulator = self._window._accumulator
        record.factor = self._window._factor()
        policy, precision = accumulator._policy, accumulator._precision
        if prepare_gradient(self._account, record, policy, precision, for_closure=True) is None:
            raise _NotFiniteError

    def _as_tensor(self, loss: float) -> Tensor:
        first = self._account.parameters[0]
        return torch.tensor(loss, dtype=first.dtype, device=first.device)


class _Run:
    """What a run of a window came to, to be put back after later ones."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self.terms = list(window._terms)
        self.losses = list(window._losses)
        self._left_out = set(window._shares.left_out)

    def restore(self) -> None:
        self._window._terms[:] = self.terms
        self._window._losses[:] = self.losses
        self._window.num_dropped = len(self._left_out)
        self._window._shares.leave_out(self._left_out)


class _Undo:
    """Parameters and the optimizer's state before a step that may fail in its middle.

    Tensors of the state are copied, lists of tensors (L-BFGS's history, which is not written to) only as lists.
    """

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
        self._optimizer = optimizer
        self._values = [(parameter, parameter.detach().clone()) for parameter in parameters]
        self._state = {
            parameter: {key: _copied(value) for key, value in state.items()}
            for parameter, state in optimizer.state.items()
        }

    def restore(self) -> None:
        with torch.no_grad():
            for parameter, value in self._values:
                parameter.copy_(value)
        self._optimizer.state.clear()
        for parameter, state in self._state.items():
            self._optimizer.state[parameter] = {key: _copied(value) for key, value in state.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return list(value) if isinstance(value, list) else value
