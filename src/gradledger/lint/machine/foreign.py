"""Functions that are not in the file: what may come out of them, and what they may do to gradients."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

from gradledger.ledger import Adjust
from gradledger.lint.machine.values import (
    Leaf,
    Optimizer,
    Tensor,
    Unknown,
    Value,
)
from gradledger.lint.torch import modules

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]


_CHANGES_GRADIENTS = re.compile(r"grad|all_?reduce|normali[sz]e_|average_", re.I)


def note_changed_gradients(machine: Machine, path: str, values: list[Value], node: ast.AST) -> None:
    """A function from elsewhere whose name says that it changes the gradients of what it is given."""
    name = path.rpartition(".")[2]
    if machine.no_grad or not _CHANGES_GRADIENTS.search(name) or "clip" in name or "norm" in name.replace("normal", ""):
        return
    for value in _flat(values):
        leaves = [value] if isinstance(value, Leaf) else modules.leaves_of(value) if modules.is_module(value) else []
        for leaf in leaves:
            if leaf.has_grad:
                machine.book.touch(Adjust, leaf, machine.location(node), factor=None)


def result_of_unknown(machine: Machine, path: str, args: Args, kwargs: Kwargs) -> Value:
    """What a call of something unknown gives."""
    return foreign_result(machine, f"{path}()", [*args, *kwargs.values()])


def foreign_result(machine: Machine, path: str, values: list[Value]) -> Value:
    """What a function from elsewhere gives: it may depend on every model and tensor that went in."""
    if _NO_TENSOR.search(path):
        return Unknown(path)
    leaves: set[Leaf] = set()
    has_tensor = False
    for value in _flat(values):
        if isinstance(value, Tensor):
            has_tensor = True
            leaves |= value.leaves
        elif not machine.no_grad and (modules.is_module(value) or _is_model(value)):
            leaves |= {leaf for leaf in modules.leaves_of(value) if leaf.requires_grad}
            has_tensor = True
    if has_tensor:
        machine.book.guessed = True
        return Tensor(None, frozenset(leaves), factors=None, is_batch=True, assumed=True, weight=4.0)
    return Unknown(path)


def _is_model(value: Value) -> bool:
    return isinstance(value, Unknown) and re.search(r"(^|_)(model|net|network)$", value.hint) is not None


_NO_TENSOR = re.compile(
    r"optim|sched|load|from_pretrained|from_config|scaler|dataset|(^|_)ema|config|logg|writer|meter|tracker|callback|hook|(^|\.)(get|build|make|create|setup|init)_",
    re.I,
)


def _flat(values: Any) -> list[Value]:
    flat: list[Value] = []
    for value in values:
        if isinstance(value, list | tuple):
            flat += _flat(value[:8])
        elif isinstance(value, dict):
            flat += _flat(list(value.values())[:8])
        else:
            flat.append(value)
    return flat


_GRADIENT_CALL = re.compile(
    r"(zero_grad|optimi[sz]er_step|optim_step|backward|train_step|training_step|optimi[sz]e(_\w+)?)$", re.I
)


def note_unseen(machine: Machine, path: str, args: Args, node: ast.AST) -> None:
    """A call into code that is not here, and may zero or step."""
    if any(isinstance(arg, Optimizer) for arg in _flat(args)) or _GRADIENT_CALL.search(path):
        line = getattr(node, "lineno", 0)
        machine.book.unclear.append(f"line {line} calls {path}, which is not in the file and may step or zero")
