"""Assignments: to names, attributes and elements, unpacked or in place."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from gradledger.lint.machine.attributes import get_attribute, set_attribute
from gradledger.lint.machine.items import get_item, set_item
from gradledger.lint.machine.operators import binary
from gradledger.lint.machine.scope import Scope
from gradledger.lint.machine.values import Grad, Leaf, Tensor, Unknown, Value
from gradledger.lint.torch import tensors

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine


def assign(machine: Machine, target: ast.expr, value: Value, scope: Scope) -> None:
    """``target = value``."""
    if isinstance(target, ast.Name):
        scope.set(target.id, named_after(value, target.id))
    elif isinstance(target, ast.Attribute):
        set_attribute(
            machine, machine.evaluate(target.value, scope), target.attr, named_after(value, target.attr), target
        )
    elif isinstance(target, ast.Subscript):
        set_item(machine, machine.evaluate(target.value, scope), machine.evaluate(target.slice, scope), value, target)
    elif isinstance(target, ast.Tuple | ast.List):
        _unpack(machine, target, value, scope)
    elif isinstance(target, ast.Starred):
        assign(machine, target.value, value, scope)


_LOSS_NAME = re.compile(r"(^|_)loss$", re.I)


def named_after(value: Value, name: str) -> Value:
    """An optimizer gets its account's name from the first variable that holds it; an unknown, what it is for."""
    from gradledger.lint.machine.numbers import number_for
    from gradledger.lint.machine.values import Optimizer

    if isinstance(value, Optimizer) and not value.name:
        value.name = name
    if isinstance(value, Tensor):
        return tensors.loss_by_name(value) if _LOSS_NAME.search(name) else value
    if isinstance(value, Unknown) and not value.varying:
        number = number_for(name)
        if number is not None and value.role is None:
            return number
        if re.search(r"(\(\)|\.item\d*)$", value.path) and value.role is None:
            value.path = name
    return value


def _unpack(machine: Machine, target: ast.Tuple | ast.List, value: Value, scope: Scope) -> None:
    wanted = len(target.elts)
    values = unpacked(machine, value, wanted, target)
    stars = [index for index, element in enumerate(target.elts) if isinstance(element, ast.Starred)]
    if stars:
        before, after = stars[0], wanted - stars[0] - 1
        middle = values[before : len(values) - after]
        values = [*values[:before], list(middle), *values[len(values) - after :]]
    for index, element in enumerate(target.elts):
        assign(machine, element, values[index] if index < len(values) else Unknown(varying=True), scope)


def unpacked(machine: Machine, value: Value, wanted: int, node: ast.AST) -> list[Value]:
    """The elements of a value that is unpacked into ``wanted`` names."""
    if isinstance(value, Unknown):
        return [get_item(machine, value, index, node) for index in range(wanted)]
    if isinstance(value, Tensor) and (value.is_batch or not value.shape or value.shape[0] != wanted):
        return [value.like() for _ in range(wanted)]
    values: list[Value] = []
    for element in machine.iterate(value, node):
        values.append(element)
        if len(values) > 100:
            break
    return values


def augmented(machine: Machine, node: ast.AugAssign, scope: Scope) -> None:
    """``target op= value``."""
    target = node.target
    if isinstance(target, ast.Name):
        old = machine.evaluate(ast.copy_location(ast.Name(target.id, ast.Load()), target), scope)
        value = machine.evaluate(node.value, scope)
        if isinstance(old, Leaf | Grad):
            _change_in_place(machine, old, node.op, value, node)
            return
        if isinstance(old, list) and isinstance(node.op, ast.Add):
            old.extend(machine.iterate(value, node))
            return
        result = binary(machine, node.op, old, value, node)
        if isinstance(old, Tensor) and isinstance(result, Tensor):
            old.become(result)  # in place, as in torch: every name of it sees the change
            return
        scope.set(target.id, result)
        return
    assert isinstance(target, ast.Attribute | ast.Subscript)
    base = machine.evaluate(target.value, scope)
    if isinstance(target, ast.Attribute):
        old = get_attribute(machine, base, target.attr, node)
        value = machine.evaluate(node.value, scope)
        if isinstance(old, Grad):
            _change_in_place(machine, old, node.op, value, node)
        elif isinstance(base, Leaf) and target.attr == "data":
            tensors.changed_by_hand(base, value)
        else:
            set_attribute(machine, base, target.attr, binary(machine, node.op, old, value, node), node)
        return
    key = machine.evaluate(target.slice, scope)
    old = get_item(machine, base, key, node)
    set_item(machine, base, key, binary(machine, node.op, old, machine.evaluate(node.value, scope), node), node)


def _change_in_place(machine: Machine, old: Leaf | Grad, op: ast.operator, value: Value, node: ast.AST) -> None:
    if isinstance(old, Grad):
        tensors.adjust(machine, old.leaf, tensors.factor_of(type(op), value), node)
    else:
        tensors.changed_by_hand(old, value)
