"""An account: the parameters that one optimizer owns, and a watch over their gradients while a window is open."""

from __future__ import annotations

import itertools
import traceback
import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from gradledger.engine.fused import FusedStep
from gradledger.engine.gradients import graph_leaves
from gradledger.engine.memory.offloading import HostGradients
from gradledger.errors import UserError

_live_accounts: dict[int, weakref.ref[Account]] = {}
"""Accounts whose accumulator is alive: who else owns parameters decides whether a backward must be fenced in."""

_numbers = itertools.count()


class Account:
    """The parameters of one optimizer.

    Args:
        name: The account's name in the ledger.
        model: The module whose parameters are checked for having an owner.
        optimizer: The owner.
        fused: Whether its step is fused; None where that is possible.

    Raises:
        UserError: The optimizer owns no parameter that needs a gradient, or cannot be fused.
    """

    def __init__(self, name: str, model: nn.Module, optimizer: Optimizer, *, fused: bool | None = None) -> None:
        self.name = name
        self.optimizer = optimizer
        self.is_open = False
        self.is_stepping = False
        self.num_optimizer_steps = 0
        self.host_gradients: HostGradients | None = None
        self.parameters: Sequence[Tensor] = self._owned()
        if not any(parameter.requires_grad for parameter in self.parameters):
            raise UserError("the optimizer owns no parameter with requires_grad=True: there is nothing to train")
        self.fused = FusedStep(optimizer, model, fused)
        owned = {id(parameter) for parameter in self.parameters}
        self._unowned = [(name, p) for name, p in model.named_parameters() if id(p) not in owned]
        self._batch_norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self._watched: tuple[Tensor, Tensor, int] | None = None
        self._ungradiented: list[tuple[str, Tensor]] = []
        self.fence: list[Tensor] | None = None
        self._foreign: list[Tensor] = []
        self._number = number = next(_numbers)
        self._neighbours: frozenset[int] = frozenset()
        self._reaches_foreign: bool | None = None
        self._guard_optimizer()
        _live_accounts[number] = weakref.ref(self, lambda _: _live_accounts.pop(number, None))

    def open(self) -> bool:
        """Begin a window with no gradients. Says whether older ones had to be cleared.

        Raises:
            UserError: Another account that owns one of these parameters has an open window.
        """
        self.parameters = self._owned()
        if len(_live_accounts) > 1:
            self._look_around()
        had_gradients = False
        for parameter in self.parameters:
            if parameter.grad is not None:
                had_gradients = True
                parameter.grad = None
        self._ungradiented = [(name, p) for name, p in self._unowned if p.grad is None] if self._unowned else []
        self._watched = None
        if self.host_gradients is not None:
            self.host_gradients.begin(self.parameters)
        self.is_open = True
        return had_gradients

    def close(self) -> None:
        """End the window: no gradient is left."""
        self.is_open = False
        self._watched = None
        self.clear_gradients()
        if self.host_gradients is not None:
            self.host_gradients.end()
        if self._foreign and self.fence is None:
            self._tidy_foreign()

    @property
    def couples_samples(self) -> bool:
        """Whether batch normalisation in training mode makes a micro-batch's samples depend on each other."""
        return bool(self._batch_norms) and any(module.training for module in self._batch_norms)

    def clear_gradients(self) -> None:
        """Drop the gradients of the account's parameters."""
        for parameter in self.parameters:
            parameter.grad = None
        if self.host_gradients is not None:
            self.host_gradients.discard()

    def gradients(self) -> list[Tensor]:
        """The gradients there are."""
        return [p.grad for p in self.parameters if p.grad is not None]

    def accumulated(self) -> dict[int, Tensor]:
        """What an open window has accumulated, wherever it is kept, by the parameter's place."""
        sums = {} if self.host_gradients is None else self.host_gradients.sums()
        found = ((at, sums.get(parameter, parameter.grad)) for at, parameter in enumerate(self.parameters))
        return {at: gradient.detach() for at, gradient in found if gradient is not None}

    def bring_back(self) -> None:
        """Have all gradients beside their parameters, for the close."""
        if self.host_gradients is not None:
            self.host_gradients.bring_back()

    def decide_fence(self, loss: Tensor) -> None:
        """Where other accounts exist, see whether a loss's graph reaches their parameters; if so, fence it in.

        A fence (``inputs=`` of a backward) costs a few percent on a deep model, so it is raised only where needed:
        when the graph of a window's first loss reaches foreign parameters, or another account has an open window.
        """
        if self.is_fence_undecided:
            self._reaches_foreign = _reaches(loss, self._foreign)
            if self._reaches_foreign:
                self._raise_fence()

    @property
    def is_fence_undecided(self) -> bool:
        """Whether the next loss will be seen through for the parameters of other accounts."""
        return bool(self._foreign) and self.fence is None and self._reaches_foreign is None

    def watch(self) -> None:
        """Remember one gradient's identity and version, to notice when somebody else changes it."""
        if self._watched is None:
            for parameter in self.parameters:
                if parameter.grad is not None:
                    break
            else:
                return
        else:
            parameter = self._watched[0]
        gradient = parameter.grad
        if gradient is not None:
            self._watched = (parameter, gradient, gradient._version)

    def unwatch(self) -> None:
        """Forget it: the gradients are about to be changed on purpose."""
        self._watched = None

    def check_untouched(self, *, may_be_changed: bool = False) -> None:
        """Notice gradients that were cleared or changed since the last micro-batch.

        Args:
            may_be_changed: Changing (not clearing) them is allowed: noise or projection after the last micro-batch.

        Raises:
            UserError: Somebody cleared or changed them.
        """
        if self._watched is None:
            return
        parameter, gradient, version = self._watched
        if parameter.grad is None:
            raise UserError(
                "the gradients of an open window were cleared: something called zero_grad() between its "
                "micro-batches; remove that call, the window zeroes by itself when it closes"
            )
        if not may_be_changed and (parameter.grad is not gradient or gradient._version != version):
            raise UserError(
                "the gradients of an open window were changed between its micro-batches (zero_grad(set_to_none="
                "False), a backward that is not window.backward, or an operation on .grad); move it after the last "
                "micro-batch or remove it"
            )

    def check_owned(self) -> None:
        """Notice parameters of the model that got a gradient and have no owner.

        Raises:
            UserError: There are some; the message names them.
        """
        strays = [name for name, p in self._ungradiented if p.grad is not None]
        if strays:
            elsewhere = {id(p) for other in self._others() for p in other.parameters}
            strays = [name for name, p in self._ungradiented if p.grad is not None and id(p) not in elsewhere]
        if strays:
            for _, parameter in self._ungradiented:
                parameter.grad = None
            shown = ", ".join(strays[:3]) + (f" and {len(strays) - 3} more" if len(strays) > 3 else "")
            raise UserError(
                f"the model's {shown} received gradients, but the optimizer does not own them, so they would never "
                "be trained: add them to the optimizer, or call requires_grad_(False) on them"
            )

    def _owned(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _others(self) -> list[Account]:
        accounts = [reference() for reference in list(_live_accounts.values())]
        return [account for account in accounts if account is not None and account is not self]

    def _look_around(self) -> None:
        """Find the parameters of other accounts, and keep windows that are open at one time apart."""
        others = self._others()
        self._meet(others)
        for other in others:
            if other.is_open:
                self._refuse_shared(other)
                other._meet(other._others())
                other._raise_fence()
        if self._reaches_foreign or any(other.is_open for other in others):
            self._raise_fence()
        else:
            self.fence = None

    def _meet(self, others: list[Account]) -> None:
        neighbours = frozenset(other._number for other in others)
        if neighbours == self._neighbours:
            return
        if not neighbours < self._neighbours:
            self._reaches_foreign = None
        self._neighbours = neighbours
        own = {id(parameter) for parameter in self.parameters}
        self._foreign = [p for other in others for p in other.parameters if id(p) not in own]

    def _raise_fence(self) -> None:
        """Let backwards reach the account's own parameters, and those that nobody owns, to be noticed."""
        if not self._foreign:
            return
        foreign = {id(parameter) for parameter in self._foreign}
        within = [*self.parameters, *(p for _, p in self._unowned if id(p) not in foreign)]
        self.fence = [parameter for parameter in within if parameter.requires_grad]

    def _tidy_foreign(self) -> None:
        """Clear what reached foreign parameters after all (a graph that changed), and fence from now on."""
        for parameter in self._foreign:
            if parameter.grad is not None:
                parameter.grad = None
                self._reaches_foreign = True

    def _refuse_shared(self, other: Account) -> None:
        own = {id(parameter) for parameter in self.parameters}
        shared = sum(id(parameter) in own for parameter in other.parameters)
        if shared:
            raise UserError(
                f"the accounts {self.name!r} and {other.name!r} share {shared} parameter tensors and both have an "
                "open window, so their gradients would mix: close one window before the other opens, or give "
                "each parameter to one optimizer"
            )

    def _guard_optimizer(self) -> None:
        reference = weakref.ref(self)

        def refuse_step(*_: Any) -> None:
            account = reference()
            if account is None:
                return
            if account.is_open and not account.is_stepping:
                raise UserError(
                    f"optimizer.step() was called inside an open window{_calling_line()}: remove it, the window "
                    "steps once when it closes"
                )
            account.num_optimizer_steps += 1

        handle = self.optimizer.register_step_pre_hook(refuse_step)
        weakref.finalize(self, handle.remove)


def _reaches(loss: Tensor, parameters: Sequence[Tensor]) -> bool:
    """Whether a backward from the loss would arrive at one of the parameters."""
    wanted = {id(parameter) for parameter in parameters}
    return any(id(leaf) in wanted for leaf in graph_leaves(loss))


def _calling_line() -> str:
    """Where the user's code called ``optimizer.step()``: the innermost frame outside torch and this package."""
    for frame in reversed(traceback.extract_stack()):
        if "/torch/" not in frame.filename and "/gradledger/engine/" not in frame.filename:
            return f" ({frame.filename}:{frame.lineno})"
    return ""
