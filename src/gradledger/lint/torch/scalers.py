"""Gradient scalers: the factor goes in with the loss and out before the step."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from gradledger.ledger import ScalerUpdate, Unscale
from gradledger.lint.machine.book import Event
from gradledger.lint.machine.values import (
    Optimizer,
    Scaler,
    Tensor,
    Unknown,
    Value,
)
from gradledger.lint.torch.backward import backward
from gradledger.lint.torch.optimizers import OPTIMIZER_NAME, optimizer_of, owned_by, step

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]


def scaler_of(value: Unknown) -> Scaler:
    """The gradient scaler that an unknown value is taken for."""
    if not isinstance(value.role, Scaler):
        value.role = Scaler()
    return value.role


def new_scaler(machine: Machine, args: Args, kwargs: Kwargs) -> Scaler:
    """``torch.amp.GradScaler(…)``."""
    enabled = kwargs.get("enabled", True)
    return Scaler(machine.truth(enabled) if isinstance(enabled, bool | Unknown) else True)


def scaler_method(machine: Machine, scaler: Scaler, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``scaler.name(…)``."""
    if name == "scale":
        value = args[0] if args else kwargs.get("outputs")
        if isinstance(value, Tensor):
            return value.like(scaler=scaler)
        if isinstance(value, Unknown):
            return Tensor(None, value.leaves, factors=None, scaler=scaler)
        return value
    target = _optimizer_in(machine, args)
    if name in ("step", "unscale_") and args and target is None:
        machine.book.unclear.append(f"{name} of an optimizer that the source does not show")
    if name == "step" and target is not None:
        _unscale(machine, scaler, target, node)
        scaler.stepped.append(target)
        return step(machine, target, node, closure=args[1] if len(args) > 1 else None, scaler=scaler.enabled)
    if name == "unscale_" and target is not None:
        scaler.stepped.append(target)
        _unscale(machine, scaler, target, node, again=True)
    elif name == "update":
        if scaler.enabled:
            machine.book.record(Event(ScalerUpdate, machine.location(node), optimizers=tuple(scaler.stepped)))
        scaler.stepped.clear()
        scaler.unscaled.clear()
    elif name == "get_scale":
        return Unknown("scale", True)
    elif name == "is_enabled":
        return scaler.enabled
    return {} if name == "state_dict" else None


def _unscale(machine: Machine, scaler: Scaler, target: Optimizer, node: ast.AST, *, again: bool = False) -> None:
    """Take the factor out; a scaler's step does so itself where nobody has."""
    if scaler.enabled and (again or target not in scaler.unscaled):
        machine.record(Unscale, node, optimizer=target)
        scaler.unscaled.append(target)


def _optimizer_in(machine: Machine, args: Args) -> Optimizer | None:
    for arg in args:
        own = owned_by(arg)
        if own is not None:
            return own
        if isinstance(arg, Unknown) and OPTIMIZER_NAME.search(arg.hint):
            return optimizer_of(machine, arg)
    return optimizer_of(machine, args[0]) if args and isinstance(args[0], Unknown) else None


def call_scaler(machine: Machine, scaler: Scaler, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """Timm's ``loss_scaler(loss, optimizer, …, need_update=…)``: backward, and where it is told so, the rest."""
    if not args:
        return None
    target = _optimizer_in(machine, args[1:] or [kwargs.get("optimizer")])
    backward(machine, args[0], node)
    update = kwargs.get("need_update", kwargs.get("update_grad", True))
    if target is None or not machine.truth(update, node):
        return Unknown("norm", True)
    machine.record(Unscale, node, optimizer=target)
    if kwargs.get("clip_grad") is not None or kwargs.get("max_norm") is not None:
        from gradledger.ledger import Clip

        machine.record(Clip, node, optimizer=target, by="norm")
    step(machine, target, node, scaler=True)
    machine.record(ScalerUpdate, node)
    return Unknown("norm", True)
