"""Optimizers, schedulers, gradient scalers and weight averages: what their methods write in the book."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from gradledger.ledger import Average, Location, ScalerUpdate, Schedule, Step, Unscale, Zero
from gradledger.lint.machine.book import Event
from gradledger.lint.machine.contexts import no_sync
from gradledger.lint.machine.values import (
    MISSING,
    Averager,
    Function,
    Instance,
    Leaf,
    Optimizer,
    Scaler,
    Scheduler,
    Tensor,
    Unknown,
    Value,
)
from gradledger.lint.torch import module_methods, modules, tensors
from gradledger.lint.torch.backward import backward

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]

OPTIMIZERS = frozenset(
    [
        "SGD",
        "Adam",
        "AdamW",
        "Adadelta",
        "Adagrad",
        "Adamax",
        "ASGD",
        "LBFGS",
        "NAdam",
        "RAdam",
        "RMSprop",
        "Rprop",
        "SparseAdam",
        "Adafactor",
        "Muon",
        "AdamW8bit",
        "Adam8bit",
        "Lion",
        "SAM",
        "FusedAdam",
        "FusedLAMB",
        "LAMB",
        "Lamb",
        "Prodigy",
        "AdaBelief",
        "PagedAdamW8bit",
    ]
)
SCHEDULERS = re.compile(r"^(\w*LR|\w*Scheduler|LRScheduler|CosineAnnealing\w*|ReduceLROnPlateau)$")
_SCHEDULER_FACTORY = re.compile(r"^get_(\w+_)?(schedule(r)?)(_with_\w+)?$|^create_scheduler\w*$")
_HORIZONS = ("T_max", "total_steps", "num_training_steps", "total_iters")

_OPTIMIZER_NAME = re.compile(r"optim|^opt$|^opt_|_opt$|opt[A-Z_]|^o[GD]$|solver$|^adam|^sgd$", re.I)
_SCHEDULER_NAME = re.compile(r"sched|lr_s|^lrs$|warmup|annealer", re.I)
_SCALER_NAME = re.compile(r"scaler", re.I)
_AVERAGE_NAME = re.compile(r"(^|_)ema($|_)|^swa|averaged", re.I)


def new_optimizer(machine: Machine, kind: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Optimizer:
    """``torch.optim.Kind(parameters, …)``."""
    given = kwargs.get("params", args[0] if args else None)
    groups, leaves = _groups(machine, given, node)
    for group in groups:
        group.setdefault("lr", kwargs.get("lr", Unknown("lr")))
    optimizer = Optimizer(kind, leaves, groups=groups, declared_at=getattr(node, "lineno", None))
    machine.book.register(optimizer)
    return optimizer


def _groups(machine: Machine, given: Value, node: ast.AST) -> tuple[list[dict[str, Value]], list[Leaf] | None]:
    if given is None or isinstance(given, Tensor):
        return [{"params": []}], None
    if isinstance(given, Unknown):
        return [{"params": [modules.leaf_of_unknown(given)]}], None
    elements = list(machine.iterate(given, node))
    if elements and all(isinstance(element, dict) for element in elements):
        leaves: list[Leaf] = []
        for group in elements:
            _, inside = _groups(machine, group.get("params"), node)
            if inside is None:
                return elements, None
            group["params"] = inside
            leaves += inside
        return elements, leaves
    found: list[Leaf] = []
    for element in elements:
        if isinstance(element, tuple) and len(element) == 2:
            element = element[1]
        if not isinstance(element, Leaf):
            return [{"params": found}], None
        found.append(element)
    return [{"params": found}], found


def optimizer_of(machine: Machine, value: Unknown) -> Optimizer:
    """The optimizer that an unknown value is taken for; it may own anything."""
    if not isinstance(value.role, Optimizer):
        value.role = Optimizer("unknown", None, name=value.path)
        value.role.groups = [{"params": [], "lr": Unknown("lr")}]
        machine.book.register(value.role)
    return value.role


def scheduler_of(value: Unknown) -> Scheduler:
    """The scheduler that an unknown value is taken for."""
    if not isinstance(value.role, Scheduler):
        value.role = Scheduler("unknown")
    return value.role


def scaler_of(value: Unknown) -> Scaler:
    """The gradient scaler that an unknown value is taken for."""
    if not isinstance(value.role, Scaler):
        value.role = Scaler()
    return value.role


def role_call(machine: Machine, function: Unknown, node: ast.Call, args: Args, kwargs: Kwargs) -> Value:
    """``unknown.method(…)`` where the names say that it is an optimizer, a scheduler, a scaler or a model."""
    receiver = function.parent
    owner_path, _, name = function.path.rpartition(".")
    owner = Unknown(owner_path).hint
    if receiver is None:
        return MISSING
    if isinstance(receiver.role, Optimizer) or (
        _OPTIMIZER_NAME.search(_last_word(owner_path)) and name in _OPTIMIZER_METHODS
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


def optimizer_method(
    machine: Machine, optimizer: Optimizer, name: str, args: Args, kwargs: Kwargs, node: ast.AST
) -> Value:
    """``optimizer.name(…)``."""
    gate = optimizer.accelerator
    if name == "zero_grad":
        if gate is None or gate.attributes.get("sync_gradients") is not False:
            zero(machine, optimizer, node)
    elif name == "step":
        if gate is None or gate.attributes.get("sync_gradients") is not False:
            closure = args[0] if args else kwargs.get("closure")
            return step(machine, optimizer, node, closure=closure, scaler=False)
    elif name == "add_param_group" and args and isinstance(args[0], dict):
        _, leaves = _groups(machine, args[0].get("params"), node)
        optimizer.leaves = None if leaves is None or optimizer.leaves is None else [*optimizer.leaves, *leaves]
        optimizer.groups.append(args[0])
    elif name == "train" or name == "eval":
        return optimizer
    elif name in ("state_dict", "state"):
        return {}
    elif name in ("first_step", "second_step"):
        return _sharpness_step(machine, optimizer, name, kwargs, args, node)
    return None


def _sharpness_step(
    machine: Machine, optimizer: Optimizer, name: str, kwargs: Kwargs, args: Args, node: ast.AST
) -> Value:
    step(machine, optimizer, node, scaler=False)
    if kwargs.get("zero_grad", args[0] if args else False) is True:
        zero(machine, optimizer, node)
    return None


def zero(machine: Machine, optimizer: Optimizer, node: ast.AST | None) -> None:
    """Gradients of the account are reset."""
    void = tensors.forget(optimizer.leaves or ())
    machine.record(Zero, node, optimizer=optimizer, leaves=frozenset(optimizer.leaves or ()), void=void)


def step(
    machine: Machine, optimizer: Optimizer, node: ast.AST | None, *, closure: Value = None, scaler: bool | None = None
) -> Value:
    """The account's gradients are consumed."""
    result: Value = None
    if isinstance(closure, Function):
        kept, machine.no_grad = machine.no_grad, 0
        result = machine.call(closure, [], {}, node or ast.Pass())
        machine.no_grad = kept
    machine.record(Step, node, optimizer=optimizer, scaler=scaler, in_backward=machine.in_backward)
    return result


def is_scheduler_name(name: str) -> bool:
    """Is it the name of a scheduler class or factory?"""
    return bool(SCHEDULERS.match(name) or _SCHEDULER_FACTORY.match(name)) and name != "LambdaLRScheduler"


def new_scheduler(machine: Machine, kind: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Scheduler:
    """``torch.optim.lr_scheduler.Kind(optimizer, …)``."""
    given = [*args, *kwargs.values()]
    optimizer = next((own for own in map(owned_by, given) if own is not None), None)
    if optimizer is None:
        unknown = next((v for v in given if isinstance(v, Unknown) and _OPTIMIZER_NAME.search(v.hint)), None)
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
        if isinstance(arg, Unknown) and _OPTIMIZER_NAME.search(arg.hint):
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


def averager_method(
    machine: Machine, averager: Averager, name: str, args: Args, kwargs: Kwargs, node: ast.AST
) -> Value:
    """``ema.update(…)``."""
    if name in ("update", "update_parameters", "step"):
        machine.record(Average, node)
    return None


def owned_by(value: Value) -> Optimizer | None:
    """The optimizer that a value is, also where its class is the file's own."""
    if isinstance(value, Instance):
        value = value.attributes.get("__optimizer__")
    return value if isinstance(value, Optimizer) else None


def is_optimizer_like(value: Value) -> bool:
    """Does it stand for an optimizer?"""
    return owned_by(value) is not None or (isinstance(value, Unknown) and bool(_OPTIMIZER_NAME.search(value.hint)))
