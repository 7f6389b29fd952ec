"""What an unknown object does whose name says that it is an optimizer, a scheduler, a scaler or a model."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from gradledger.ledger import Average
from gradledger.lint.machine.contexts import no_sync
from gradledger.lint.machine.values import (
    MISSING,
    Optimizer,
    Scaler,
    Scheduler,
    Unknown,
    Value,
)
from gradledger.lint.torch import module_methods
from gradledger.lint.torch.backward import backward
from gradledger.lint.torch.optimizers import OPTIMIZER_NAME, optimizer_method, optimizer_of
from gradledger.lint.torch.scalers import scaler_method, scaler_of
from gradledger.lint.torch.schedulers import scheduler_method, scheduler_of

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]


_SCHEDULER_NAME = re.compile(r"sched|lr_s|^lrs$|warmup|annealer", re.I)


_SCALER_NAME = re.compile(r"scaler", re.I)


_AVERAGE_NAME = re.compile(r"(^|_)ema($|_)|^swa|averaged", re.I)


def role_call(machine: Machine, function: Unknown, node: ast.Call, args: Args, kwargs: Kwargs) -> Value:
    """``unknown.method(…)`` where the names say that it is an optimizer, a scheduler, a scaler or a model."""
    receiver = function.parent
    owner_path, _, name = function.path.rpartition(".")
    owner = Unknown(owner_path).hint
    if receiver is None:
        return MISSING
    if isinstance(receiver.role, Optimizer) or (
        OPTIMIZER_NAME.search(_last_word(owner_path)) and name in _OPTIMIZER_METHODS
    ):
        return optimizer_method(machine, optimizer_of(machine, receiver), name, args, kwargs, node)
    if isinstance(receiver.role, Scheduler) or (_SCHEDULER_NAME.search(owner) and name in ("step", "step_update")):
        return scheduler_method(machine, scheduler_of(receiver), name, args, kwargs, node)
    if isinstance(receiver.role, Scaler) or (_SCALER_NAME.search(owner) and name in _SCALER_METHODS):
        return scaler_method(machine, scaler_of(receiver), name, args, kwargs, node)
    if name == "backward" and receiver.hint == "window":
        return None  # a window of our own engine
    if name == "backward" and args:
        backward(machine, args[0], node)
        return None
    if name == "backward" or (name == "manual_backward" and args):
        backward(machine, args[0] if args else receiver, node)
        return None
    if name in ("clip_grad_norm_", "clip_grad_value_") and args:
        return MISSING
    if _AVERAGE_NAME.search(owner) and name in ("update", "update_parameters", "step"):
        machine.record(Average, node)
        return None
    if name == "no_sync":
        return no_sync(machine)
    if name in module_methods.METHODS and name not in (
        "items",
        "keys",
        "values",
        "append",
        "extend",
        "insert",
        "type",
        "join",
    ):
        return module_methods.module_method(machine, receiver, name, args, kwargs, node)
    return MISSING


def _last_word(path: str) -> str:
    words = re.findall(r"[A-Za-z_]\w*", path)
    return words[-1] if words else ""


_OPTIMIZER_METHODS = frozenset(
    {"step", "zero_grad", "param_groups", "add_param_group", "state_dict", "load_state_dict"}
)


_SCALER_METHODS = frozenset(
    {"scale", "step", "update", "unscale_", "get_scale", "is_enabled", "state_dict", "load_state_dict"}
)
