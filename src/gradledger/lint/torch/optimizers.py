"""Optimizers and weight averages: what they own, and what their methods write in the book."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from gradledger.ledger import Average, Step, Zero
from gradledger.lint.machine.values import (
    Averager,
    Function,
    Instance,
    Leaf,
    Optimizer,
    Tensor,
    Unknown,
    Value,
)
from gradledger.lint.torch import modules, tensors

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]

OPTIMIZERS = frozenset(
    {
        "SGD", "Adam", "AdamW", "Adadelta", "Adagrad", "Adamax", "ASGD", "LBFGS", "NAdam", "RAdam", "RMSprop",
        "Rprop", "SparseAdam", "Adafactor", "Muon", "AdamW8bit", "Adam8bit", "Lion", "SAM", "FusedAdam",
        "FusedLAMB", "LAMB", "Lamb", "Prodigy", "AdaBelief", "PagedAdamW8bit",
    }
)  # fmt: skip

OPTIMIZER_NAME = re.compile(r"optim|^opt$|^opt_|_opt$|opt[A-Z_]|^o[GD]$|solver$|^adam|^sgd$", re.I)
"""What people call an optimizer."""


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
    return owned_by(value) is not None or (isinstance(value, Unknown) and bool(OPTIMIZER_NAME.search(value.hint)))
