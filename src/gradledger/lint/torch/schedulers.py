"""Learning-rate schedulers: what they were built for, and when they advance."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from gradledger.ledger import Location, Schedule
from gradledger.lint.machine.values import (
    Scheduler,
    Unknown,
    Value,
)
from gradledger.lint.torch.optimizers import OPTIMIZER_NAME, optimizer_of, owned_by

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]


SCHEDULERS = re.compile(r"^(\w*LR|\w*Scheduler|LRScheduler|CosineAnnealing\w*|ReduceLROnPlateau)$")


_SCHEDULER_FACTORY = re.compile(r"^get_(\w+_)?(schedule(r)?)(_with_\w+)?$|^create_scheduler\w*$")


_HORIZONS = ("T_max", "total_steps", "num_training_steps", "total_iters")


def scheduler_of(value: Unknown) -> Scheduler:
    """The scheduler that an unknown value is taken for."""
    if not isinstance(value.role, Scheduler):
        value.role = Scheduler("unknown")
    return value.role


def is_scheduler_name(name: str) -> bool:
    """Is it the name of a scheduler class or factory?"""
    return bool(SCHEDULERS.match(name) or _SCHEDULER_FACTORY.match(name)) and name != "LambdaLRScheduler"


def new_scheduler(machine: Machine, kind: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Scheduler:
    """``torch.optim.lr_scheduler.Kind(optimizer, …)``."""
    given = [*args, *kwargs.values()]
    optimizer = next((own for own in map(owned_by, given) if own is not None), None)
    if optimizer is None:
        unknown = next((v for v in given if isinstance(v, Unknown) and OPTIMIZER_NAME.search(v.hint)), None)
        optimizer = None if unknown is None else optimizer_of(machine, unknown)
    horizon = _horizon(kind, args, kwargs)
    return Scheduler(kind, optimizer, horizon, line=getattr(node, "lineno", None))


def _horizon(kind: str, args: Args, kwargs: Kwargs) -> int | None:
    positional = {"CosineAnnealingLR": 1, "LinearLR": 3, "PolynomialLR": 1, "ConstantLR": 2}.get(kind)
    values = [kwargs.get(name) for name in _HORIZONS]
    if kind == "OneCycleLR" and "total_steps" not in kwargs:
        epochs, steps = kwargs.get("epochs"), kwargs.get("steps_per_epoch")
        values.append(epochs * steps if isinstance(epochs, int) and isinstance(steps, int) else None)
        values.append(args[2] if len(args) > 2 else None)
    if _SCHEDULER_FACTORY.match(kind):
        values.append(args[2] if len(args) > 2 else None)
    if positional is not None and len(args) > positional:
        values.append(args[positional])
    return next((int(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)), None)


def scheduler_method(
    machine: Machine, scheduler: Scheduler, name: str, args: Args, kwargs: Kwargs, node: ast.AST
) -> Value:
    """``scheduler.name(…)``."""
    if name in ("step", "step_update"):
        gate = scheduler.accelerator
        if gate is None or gate.attributes.get("sync_gradients") is not False:
            schedule(machine, scheduler, node)
        return None
    if name in ("get_last_lr", "get_lr"):
        return [Unknown("lr", True)]
    return {} if name == "state_dict" else None


def schedule(machine: Machine, scheduler: Scheduler, node: ast.AST | None) -> None:
    """The learning rate advances."""
    construction = None if scheduler.line is None else Location(machine.file, scheduler.line)
    machine.record(
        Schedule,
        node,
        optimizer=scheduler.optimizer,
        scheduler=scheduler.kind,
        horizon=scheduler.horizon,
        construction=construction,
    )
