"""What a program asks of its own objects: their class, their attributes."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING

from gradledger.lint.machine.values import (
    MISSING,
    Bag,
    Class,
    External,
    Function,
    Instance,
    Leaf,
    Method,
    Module,
    Native,
    Tensor,
    Unknown,
    Value,
)

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]


def _isinstance(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    value, wanted = args[0], args[1] if len(args) > 1 else None
    kinds = list(wanted) if isinstance(wanted, tuple) else [wanted]
    names = {kind.last for kind in kinds if isinstance(kind, External)} | {
        k.name for k in kinds if isinstance(k, Native)
    }
    if isinstance(value, Instance):
        return any(_inherits(value.cls, kind) for kind in kinds) or bool(names & {"Module"})
    if isinstance(value, Tensor | Leaf):
        return (
            bool(names & {"Tensor", "FloatTensor", "Parameter"}) if not value_is_batch(value) else Unknown("is tensor")
        )
    if isinstance(value, Module):
        return value.kind in names or "Module" in names
    native = {
        "int": int,
        "float": float,
        "str": str,
        "list": list,
        "tuple": tuple,
        "dict": dict,
        "bool": bool,
        "set": set,
    }
    if isinstance(value, int | float | str | list | tuple | dict | bool | set):
        return any(isinstance(value, native[name]) for name in names if name in native)
    if isinstance(value, Unknown):
        return Unknown(f"isinstance({value.path}, {'|'.join(sorted(names))})", value.varying)
    return bool(names & {type(value).__name__})


def value_is_batch(value: Value) -> bool:
    """Is it a micro-batch of which nothing is known?"""
    return isinstance(value, Tensor) and value.is_batch


def _inherits(cls: Class, wanted: Value) -> bool:
    return cls is wanted or any(_inherits(base, wanted) for base in cls.bases if isinstance(base, Class))


def _getattr(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    from gradledger.lint.machine.attributes import get_attribute

    if len(args) < 2 or not isinstance(args[1], str):
        return Unknown()
    if len(args) > 2 and _hasattr(machine, args[:2], {}, node) is False:
        return args[2]
    return get_attribute(machine, args[0], args[1], node)


def _hasattr(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    value, name = args[0], args[1] if len(args) > 1 else ""
    if isinstance(value, Instance):
        return name in value.attributes or value.cls.lookup(name) is not MISSING
    if isinstance(value, Bag):
        return name in value.attributes
    if isinstance(value, Unknown):
        return Unknown(f"hasattr({value.path}, {name!r})")
    if isinstance(value, Module):
        from gradledger.lint.torch.module_methods import METHODS

        return name in value.attributes or (name in METHODS and (name != "no_sync" or "Parallel" in value.kind))
    return False


def _setattr(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    from gradledger.lint.machine.attributes import set_attribute

    if len(args) > 2 and isinstance(args[1], str):
        set_attribute(machine, args[0], args[1], args[2], node)
    return None


def _type(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return args[0].cls if args and isinstance(args[0], Instance) else Unknown("type")


def _id(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return id(args[0]) if args else 0


def _callable(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return isinstance(args[0], Function | Native | Class | Method | External | Module | Instance)


INTROSPECTION: dict[str, Callable[..., Value]] = {
    "isinstance": _isinstance,
    "getattr": _getattr,
    "hasattr": _hasattr,
    "setattr": _setattr,
    "type": _type,
    "callable": _callable,
    "id": _id,
    "hash": _id,
}
"""The builtins of this room, by name."""
