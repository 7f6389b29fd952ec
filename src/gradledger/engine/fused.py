"""Fused steps: torch's optimizers in one kernel, in which normalisation and clipping ride along.

An optimizer that was made without ``fused=`` or ``foreach=`` leaves the choice to torch, which keeps to its older
implementations, one operation on one tensor after the other on a CPU. The fused ones compute the same in one pass over
the memory, and first divide each gradient by ``optimizer.grad_scale``, which is there for gradient scalers: a factor
that is left for the close goes in there and costs no pass of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from gradledger.engine.gradients import WindowGradient
from gradledger.errors import UserError

if TYPE_CHECKING:
    from gradledger.engine.account import Account

_KINDS_ON = {"cpu": (SGD, Adam, AdamW, Adagrad), "cuda": (SGD, Adam, AdamW)}
_UP_TO_SINGLE = {torch.float32, torch.bfloat16, torch.float16}


class FusedStep:
    """The step of an optimizer, fused where that is possible.

    Args:
        optimizer: Its groups are switched to torch's fused implementation.
        model: Its modules tell whether gradients will be sparse.
        wish: True asks for it, False leaves the optimizer as it is, None fuses where the optimizer's maker left the
            choice open and torch has the kernels.

    Raises:
        UserError: It is asked for and not possible; the message says why.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module, wish: bool | None) -> None:
        self._optimizer = optimizer
        obstacle = None if wish is False else _obstacle(optimizer, model)
        if wish and obstacle is not None:
            raise UserError(f"fused=True is not possible: {obstacle}; leave it out, or change that")
        if wish or (wish is None and obstacle is None and _is_left_open(optimizer)):
            for group in optimizer.param_groups:
                group["fused"], group["foreach"] = True, None
        # Its kernel starts the momenta of all its parameters in one step, so none may get its first gradient later.
        self._may_start_apart = type(optimizer) is SGD and any(group["momentum"] for group in optimizer.param_groups)

    def check(self, account: Account) -> None:
        """Before a step: leave the fused implementation where it cannot work with the gradients that there are."""
        if not self._may_start_apart:
            return
        parameters = [p for p in account.parameters if p.grad is not None]
        state = self._optimizer.state
        has_started = [state.get(p, {}).get("momentum_buffer") is not None for p in parameters]
        if any(has_started) and not all(has_started):
            for group in self._optimizer.param_groups:
                group["fused"] = None
            self._may_start_apart = False
        elif len(parameters) == len(account.parameters):
            self._may_start_apart = False

    def takes_factor(self, gradients: Sequence[Tensor]) -> bool:
        """Whether a factor can ride along: a kernel reads it, and no hook of the user's sees the gradients before.

        It is read as a float32, which would be too coarse for float64.
        """
        optimizer = self._optimizer
        return (
            all(group.get("fused") for group in optimizer.param_groups)
            and len(optimizer._optimizer_step_pre_hooks) == 1  # the account's own
            and {gradient.dtype for gradient in gradients} <= _UP_TO_SINGLE
        )

    def step(self, gradient: WindowGradient) -> None:
        """Step, with the factor that was left for it."""
        optimizer: Any = self._optimizer
        if gradient.factor is None:
            optimizer.step()
            return
        device = gradient.tensors[0].device
        optimizer.grad_scale = torch.as_tensor(1.0 / gradient.factor, dtype=torch.float32, device=device)
        try:
            optimizer.step()
        finally:
            del optimizer.grad_scale


def as_accumulated(optimizer: Optimizer, model: nn.Module) -> Optimizer:
    """A copy that steps as it will when an accumulator has it; the optimizer itself is left as it is."""
    copied = copy(optimizer)
    copied.param_groups = [dict(group) for group in optimizer.param_groups]
    FusedStep(copied, model, None)
    return copied


def _is_left_open(optimizer: Optimizer) -> bool:
    return all(group["fused"] is None and group["foreach"] is None for group in optimizer.param_groups)


def _obstacle(optimizer: Optimizer, model: nn.Module) -> str | None:
    """Why an optimizer cannot be fused, or None."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    devices = {p.device.type for p in parameters}
    if len(devices) != 1 or not devices <= _KINDS_ON.keys():
        return f"the parameters are on {', '.join(sorted(devices))}, and torch fuses steps on one of cpu and cuda"
    if type(optimizer) not in _KINDS_ON[next(iter(devices))]:
        return f"torch has no fused {type(optimizer).__name__} for this device"
    if any(group["differentiable"] or isinstance(group["lr"], Tensor) for group in optimizer.param_groups):
        return "the optimizer is differentiable, or its learning rate a tensor"
    if not all(
        type(p) in (Tensor, nn.Parameter) and p.is_floating_point() and p.layout == torch.strided for p in parameters
    ):
        return "parameters are sharded, sparse, or not floating-point"
    if "cpu" not in devices and any(getattr(state.get("step"), "is_cpu", False) for state in optimizer.state.values()):
        return "the optimizer has stepped unfused and counts its steps on the CPU"
    if any(getattr(module, "sparse", False) is True for module in model.modules()):
        return "a module's gradients are sparse"
    return None
