"""Elements: ``x[key]``, and assigning to them."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from gradledger.ledger import Adjust
from gradledger.lint.machine import numbers
from gradledger.lint.machine.attributes import of_unknown
from gradledger.lint.machine.values import (
    MISSING,
    Bag,
    Class,
    Dataset,
    External,
    Grad,
    Instance,
    Leaf,
    Module,
    Tensor,
    Unknown,
    Value,
)
from gradledger.lint.torch import tensors

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine


def get_item(machine: Machine, value: Value, key: Value, node: ast.AST) -> Value:
    """``value[key]``."""
    if isinstance(value, Tensor):
        return tensors.sliced(value, key)
    if isinstance(value, list | tuple | str | range | dict | bytes):
        return _native_item(value, key)
    if isinstance(value, Unknown):
        return _unknown_item(value, key)
    if isinstance(value, Module):
        return _child(value, key)
    if isinstance(value, Dataset):
        return value.item(key if isinstance(key, int) else 0)
    if isinstance(value, Bag):
        return value.attributes.get(key, Unknown(str(key))) if isinstance(key, str) else Unknown("item")
    if isinstance(value, Instance):
        return _instance_item(machine, value, key, node)
    if isinstance(value, Leaf | Grad):
        return tensors.sliced(tensors.as_tensor(value), key)
    if isinstance(value, External | Class):
        return value
    return Unknown("item")


def _native_item(value: Any, key: Value) -> Value:
    key = tensors.number_or(key)
    if isinstance(key, float) and key.is_integer() and not isinstance(value, dict):
        key = int(key)
    try:
        return value[key]
    except (IndexError, KeyError, TypeError, ValueError):
        pass
    elements = list(value.values()) if isinstance(value, dict) else value
    if isinstance(key, int) and isinstance(value, list | tuple) and value:
        return value[-1]  # how long both sides are was assumed, and not alike
    if isinstance(key, Unknown | Tensor) and elements and not isinstance(value, str):
        return elements[0] if not isinstance(key, Tensor) or key.shape == () else elements
    return numbers.named(key) if isinstance(key, str) else Unknown("item", True)


def _unknown_item(value: Unknown, key: Value) -> Value:
    if isinstance(key, str):
        return of_unknown(value, key)
    return of_unknown(value, f"item{key}" if isinstance(key, int) else "item")


def _child(module: Module, key: Value) -> Value:
    if isinstance(key, int) and -len(module.children) <= key < len(module.children):
        return module.children[key]
    if isinstance(key, slice):
        try:
            return Module("Sequential", module.children[key])
        except TypeError:
            return module
    if isinstance(key, str) and key in module.attributes:
        return module.attributes[key]
    return module.children[0] if module.children else Unknown("layer")


def _instance_item(machine: Machine, value: Instance, key: Value, node: ast.AST) -> Value:
    method = value.cls.lookup("__getitem__")
    if method is not MISSING:
        return machine.call(method, [value, key], {}, node)
    return Unknown("item", True)


def set_item(machine: Machine, base: Value, key: Value, value: Value, node: ast.AST) -> None:
    """``base[key] = value``."""
    key = tensors.number_or(key)
    if isinstance(base, dict | list):
        try:
            base[key] = value
        except (TypeError, IndexError):
            return
    elif isinstance(base, Unknown | Bag | Module) and isinstance(key, str):
        base.attributes[key] = value
    elif isinstance(base, Instance):
        method = base.cls.lookup("__setitem__")
        if method is not MISSING:
            machine.call(method, [base, key, value], {}, node)
    elif isinstance(base, Grad):
        machine.book.touch(Adjust, base.leaf, machine.location(node), factor=None)
    elif isinstance(base, Tensor) and isinstance(value, Tensor) and value.leaves:
        base.become(base.like(leaves=_leaves_after_write(machine, base, value)))


def _leaves_after_write(machine: Machine, base: Tensor, value: Tensor) -> frozenset[Leaf]:
    """Fresh rows in a tensor without a graph are put into a cache; written again, it is a buffer for outputs."""
    if not base.leaves and not machine.no_grad:
        return value.leaves | {tensors.window_mark()}
    return value.leaves | frozenset(leaf for leaf in base.leaves if not leaf.spans_window)
