"""Expressions: what each kind of node evaluates to."""

from __future__ import annotations

import ast
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any

from gradledger.lint.machine import numbers, readings
from gradledger.lint.machine.attributes import get_attribute
from gradledger.lint.machine.items import get_item
from gradledger.lint.machine.machine import ReturnValue
from gradledger.lint.machine.operators import NATIVE, binary, compare, path_of
from gradledger.lint.machine.scope import Scope
from gradledger.lint.machine.values import (
    MISSING,
    Bag,
    External,
    Function,
    Grad,
    Leaf,
    Tensor,
    Unknown,
    Value,
)
from gradledger.lint.torch import tensors

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine


def _constant(machine: Machine, node: ast.Constant, scope: Scope) -> Value:
    return node.value


def _name(machine: Machine, node: ast.Name, scope: Scope) -> Value:
    value = scope.get(node.id)
    if value is not MISSING:
        return value
    from gradledger.lint.python.builtins import BUILTINS

    if node.id in BUILTINS:
        return BUILTINS[node.id]
    unknown = numbers.named(node.id)
    scope.module().names[node.id] = unknown
    return unknown


def _attribute(machine: Machine, node: ast.Attribute, scope: Scope) -> Value:
    return get_attribute(machine, machine.evaluate(node.value, scope), node.attr, node)


def _subscript(machine: Machine, node: ast.Subscript, scope: Scope) -> Value:
    return get_item(machine, machine.evaluate(node.value, scope), machine.evaluate(node.slice, scope), node)


def _slice(machine: Machine, node: ast.Slice, scope: Scope) -> Value:
    parts = [None if part is None else machine.evaluate(part, scope) for part in (node.lower, node.upper, node.step)]
    return slice(*parts)


def _binary(machine: Machine, node: ast.BinOp, scope: Scope) -> Value:
    left = machine.evaluate(node.left, scope)
    return binary(machine, node.op, left, machine.evaluate(node.right, scope), node)


def _unary(machine: Machine, node: ast.UnaryOp, scope: Scope) -> Value:
    value = machine.evaluate(node.operand, scope)
    if isinstance(node.op, ast.Not):
        return not machine.truth(value, node.operand)
    if isinstance(value, Tensor | Leaf | Grad):
        if isinstance(node.op, ast.USub):
            return tensors.arithmetic(machine, ast.Mult, value, -1.0)
        return tensors.as_tensor(value).like(number=None)
    if isinstance(value, Unknown):
        return Unknown(f"-{value.path}", value.varying, value.leaves)
    try:
        return -value if isinstance(node.op, ast.USub) else (~value if isinstance(node.op, ast.Invert) else value)
    except TypeError:
        return Unknown()


def _boolean(machine: Machine, node: ast.BoolOp, scope: Scope) -> Value:
    stop_at = isinstance(node.op, ast.Or)
    value: Value = None
    for operand in node.values:
        value = machine.evaluate(operand, scope)
        if operand is node.values[-1]:
            return value
        if machine.truth(value, operand) == stop_at:
            return True if isinstance(value, Unknown) and stop_at and not value.role else value
    return value


def _compare(machine: Machine, node: ast.Compare, scope: Scope) -> Value:
    left = machine.evaluate(node.left, scope)
    result: Value = True
    for op, right_node in zip(node.ops, node.comparators, strict=True):
        right = machine.evaluate(right_node, scope)
        result = compare(machine, op, left, right, node)
        if result is False:
            return False
        left = right
    return result


def _if_expression(machine: Machine, node: ast.IfExp, scope: Scope) -> Value:
    if machine.truth(machine.evaluate(node.test, scope), node.test):
        return machine.evaluate(node.body, scope)
    return machine.evaluate(node.orelse, scope)


def _lambda(machine: Machine, node: ast.Lambda, scope: Scope) -> Value:
    return Function(node, scope, defaults=default_values(machine, node.args, scope))


def default_values(machine: Machine, arguments: ast.arguments, scope: Scope) -> dict[str, Value]:
    """The default value of each parameter that has one."""
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = list(zip(reversed(positional), reversed(arguments.defaults), strict=False))
    pairs += [(a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None]
    return {argument.arg: machine.evaluate(default, scope) for argument, default in pairs}


def _elements(machine: Machine, nodes: list[ast.expr], scope: Scope) -> list[Value]:
    values: list[Value] = []
    for node in nodes:
        if isinstance(node, ast.Starred):
            values += machine.iterate(machine.evaluate(node.value, scope), node)
        else:
            values.append(machine.evaluate(node, scope))
    return values


def _list(machine: Machine, node: ast.List, scope: Scope) -> Value:
    return _elements(machine, node.elts, scope)


def _tuple(machine: Machine, node: ast.Tuple, scope: Scope) -> Value:
    return tuple(_elements(machine, node.elts, scope))


def _set(machine: Machine, node: ast.Set, scope: Scope) -> Value:
    return set_of(_elements(machine, node.elts, scope))


def set_of(values: list[Value]) -> Value:
    """A set, or the list itself where an element cannot be in one."""
    try:
        return set(values)
    except TypeError:
        return values


def _dict(machine: Machine, node: ast.Dict, scope: Scope) -> Value:
    result: dict[Any, Value] = {}
    for key_node, value_node in zip(node.keys, node.values, strict=True):
        value = machine.evaluate(value_node, scope)
        if key_node is None:
            result.update(value if isinstance(value, dict) else {})
            continue
        key = machine.evaluate(key_node, scope)
        try:
            result[key] = value
        except TypeError:
            result[repr(key)] = value
    return result


def _comprehension(machine: Machine, node: ast.ListComp | ast.SetComp, scope: Scope) -> Value:
    values = list(_generator(machine, node, scope))
    return set_of(values) if isinstance(node, ast.SetComp) else values


def _generator(machine: Machine, node: ast.GeneratorExp | ast.ListComp | ast.SetComp, scope: Scope) -> Value:
    return (machine.evaluate(node.elt, inner) for inner in _inner_scopes(machine, node.generators, Scope(scope)))


def _dict_comprehension(machine: Machine, node: ast.DictComp, scope: Scope) -> Value:
    result: dict[Any, Value] = {}
    for inner in _inner_scopes(machine, node.generators, Scope(scope)):
        key = machine.evaluate(node.key, inner)
        result[key if isinstance(key, Hashable) else id(key)] = machine.evaluate(node.value, inner)
    return result


def _inner_scopes(machine: Machine, generators: list[ast.comprehension], scope: Scope) -> Iterator[Scope]:
    from gradledger.lint.machine.assignment import assign

    first, rest = generators[0], generators[1:]
    for element in machine.iterate(machine.evaluate(first.iter, scope), first.iter):
        machine.tick()
        assign(machine, first.target, element, scope)
        if all(machine.truth(machine.evaluate(test, scope), test) for test in first.ifs):
            if rest:
                yield from _inner_scopes(machine, rest, scope)
            else:
                yield scope


def _formatted(machine: Machine, node: ast.JoinedStr, scope: Scope) -> Value:
    parts: list[str] = []
    for part in node.values:
        if isinstance(part, ast.FormattedValue):
            value = machine.evaluate(part.value, scope)
            readings.show(machine, value)
            if isinstance(value, Unknown | Tensor):
                parts.append("{" + path_of(value) + "}")
            else:
                parts.append(str(value) if isinstance(value, NATIVE) else path_of(value))
        elif isinstance(part, ast.Constant):
            parts.append(str(part.value))
    return "".join(parts)


def _named(machine: Machine, node: ast.NamedExpr, scope: Scope) -> Value:
    value = machine.evaluate(node.value, scope)
    scope.set(node.target.id, value)
    return value


def _call(machine: Machine, node: ast.Call, scope: Scope) -> Value:
    if isinstance(node.func, ast.Name) and node.func.id == "super":
        return _super(machine, node, scope)
    function = machine.evaluate(node.func, scope)
    args = _elements(machine, node.args, scope)
    kwargs: dict[str, Value] = {}
    for keyword in node.keywords:
        value = machine.evaluate(keyword.value, scope)
        if keyword.arg is not None:
            kwargs[keyword.arg] = value
        elif isinstance(value, dict):
            kwargs.update({str(key): element for key, element in value.items()})
        else:
            kwargs.setdefault("**", value)
    if isinstance(function, External) and function.name in ("locals", "globals", "vars"):
        return dict(scope.names)
    return machine.call(function, args, kwargs, node)


def _super(machine: Machine, node: ast.Call, scope: Scope) -> Value:
    home: Scope | None = scope
    while home is not None and home.instance is None:
        home = home.parent
    if home is None:
        return Unknown("super")
    return Bag("super", {"instance": home.instance, "owner": home.owner})


def _await(machine: Machine, node: ast.Await, scope: Scope) -> Value:
    return machine.evaluate(node.value, scope)


def _yield(machine: Machine, node: ast.Yield, scope: Scope) -> Value:
    value = None if node.value is None else machine.evaluate(node.value, scope)
    _hand_over(scope, value)
    return None


def _yield_from(machine: Machine, node: ast.YieldFrom, scope: Scope) -> Value:
    for value in machine.iterate(machine.evaluate(node.value, scope), node):
        _hand_over(scope, value)
    return None


def _hand_over(scope: Scope, value: Value) -> None:
    home: Scope | None = scope
    while home is not None and home.generator is None:
        home = home.parent
    if home is None:
        raise ReturnValue(value)
    home.generator.hand_over(value)


def _starred(machine: Machine, node: ast.Starred, scope: Scope) -> Value:
    return machine.evaluate(node.value, scope)


EXPRESSIONS: dict[type[ast.AST], Callable[[Any, Any, Scope], Value]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.Subscript: _subscript,
    ast.Slice: _slice,
    ast.BinOp: _binary,
    ast.UnaryOp: _unary,
    ast.BoolOp: _boolean,
    ast.Compare: _compare,
    ast.IfExp: _if_expression,
    ast.Lambda: _lambda,
    ast.List: _list,
    ast.Tuple: _tuple,
    ast.Set: _set,
    ast.Dict: _dict,
    ast.ListComp: _comprehension,
    ast.SetComp: _comprehension,
    ast.GeneratorExp: _generator,
    ast.DictComp: _dict_comprehension,
    ast.JoinedStr: _formatted,
    ast.NamedExpr: _named,
    ast.Call: _call,
    ast.Await: _await,
    ast.Yield: _yield,
    ast.YieldFrom: _yield_from,
    ast.Starred: _starred,
}
"""What evaluates each kind of expression."""
