"""Operators: arithmetic and comparisons of whatever stands on both sides."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradledger.lint.machine import numbers, readings
from gradledger.lint.machine.machine import Raised
from gradledger.lint.machine.truth import is_none
from gradledger.lint.machine.values import (
    MISSING,
    Bag,
    External,
    Function,
    Grad,
    Instance,
    Leaf,
    Module,
    Optimizer,
    Scaler,
    Scheduler,
    Tensor,
    Unknown,
    Value,
)
from gradledger.lint.torch import tensors

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine


NATIVE = (int, float, str, bool, type(None), list, tuple, dict, set, frozenset, range, bytes, complex)


_OBJECTS = (Optimizer, Scheduler, Scaler, Module, Instance, Bag, Function)


OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}


"""What computes each operator on plain numbers."""
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


_SIGNS: dict[type[ast.operator] | type[ast.cmpop], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip


_LARGEST = 1 << 40


def binary(machine: Machine, op: ast.operator, left: Value, right: Value, node: ast.AST) -> Value:
    """``left op right``."""
    if isinstance(left, Tensor | Leaf | Grad) or isinstance(right, Tensor | Leaf | Grad):
        return tensors.arithmetic(machine, type(op), left, right)
    if isinstance(op, ast.Mod) and isinstance(left, int) and not isinstance(left, bool):
        if isinstance(right, Unknown):
            assumed = numbers.modulus(right)
            right = right if assumed is None else assumed
        if isinstance(right, int):
            machine.moduli.add(right)
    if isinstance(left, NATIVE) and isinstance(right, NATIVE):
        return _compute(op, left, right, node)
    if isinstance(left, Instance):
        return _overloaded(machine, op, left, right, node)
    signs = f"{path_of(left)} {_SIGNS.get(type(op), '?')} {path_of(right)}"
    reading = readings.combined(type(op), left, right)
    before = readings.reading_of(left)
    result = Unknown(signs, _varies(left) or _varies(right), leaves_in(left) | leaves_in(right), reading=reading)
    if reading is not None and before is not None and reading.count < before.count:
        readings.show(machine, result)  # divided by their number: a mean, which must be one of whole losses
    return result


def _compute(op: ast.operator, left: Any, right: Any, node: ast.AST) -> Value:
    try:
        if isinstance(op, ast.Pow) and abs(right) > 64:
            return float(left) ** right
        if isinstance(op, ast.Mult) and not isinstance(left, int | float) | isinstance(right, int | float):
            return OPERATORS[ast.Mult](left, right)
        if isinstance(op, ast.Mult) and (_is_long(left, right) or _is_long(right, left)):
            return Unknown()
        result = OPERATORS[type(op)](left, right)
    except ZeroDivisionError:
        raise Raised("ZeroDivisionError") from None
    except (TypeError, ValueError, OverflowError, KeyError):
        return Unknown()
    return Unknown() if isinstance(result, int) and abs(result) > _LARGEST else result


def _is_long(sequence: Any, times: Any) -> bool:
    return (
        isinstance(sequence, str | list | tuple | bytes) and isinstance(times, int) and len(sequence) * times > 10_000
    )


def _overloaded(machine: Machine, op: ast.operator, left: Instance, right: Value, node: ast.AST) -> Value:
    names = {ast.Add: "__add__", ast.Sub: "__sub__", ast.Mult: "__mul__", ast.Div: "__truediv__"}
    method = left.cls.lookup(names.get(type(op), ""))
    return Unknown() if method is MISSING else machine.call(method, [left, right], {}, node)


def path_of(value: Value) -> str:
    """How a value is named in the path of what is computed from it."""
    if isinstance(value, Unknown):
        return value.path
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value) if value in (-1, 0, 1) else "n"  # a counter must not make a new flag of each comparison
    if isinstance(value, NATIVE):
        return repr(value)[:40]
    return type(value).__name__.lower()


def _varies(value: Value) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, Unknown) and value.varying)


def leaves_in(value: Value) -> frozenset[Leaf]:
    """The parameters that a value's graph reaches."""
    return value.leaves if isinstance(value, Tensor | Unknown) else frozenset()


def compare(machine: Machine, op: ast.cmpop, left: Value, right: Value, node: ast.AST) -> Value:
    """``left op right``, for one comparison."""
    if isinstance(op, ast.Is | ast.IsNot):
        same = _identical(machine, left, right, node)
        return same if isinstance(op, ast.Is) or isinstance(same, Unknown) else not same
    if isinstance(op, ast.In | ast.NotIn):
        found = _contained(left, right, node)
        return found if isinstance(op, ast.In) or isinstance(found, Unknown) else not found
    if isinstance(left, Grad) or isinstance(right, Grad):
        return Unknown("gradient", True)
    left, right = tensors.number_or(left), tensors.number_or(right)
    if isinstance(left, NATIVE) and isinstance(right, NATIVE):
        if isinstance(right, int) and not isinstance(right, bool):
            machine.moduli.add(right)
        try:
            return _COMPARISONS[type(op)](left, right)
        except TypeError:
            return Unknown()
    if isinstance(left, External) and isinstance(right, External):
        return (left.name == right.name) == isinstance(op, ast.Eq)
    if isinstance(left, _OBJECTS) and isinstance(op, ast.Eq | ast.NotEq):
        return (left is right) == isinstance(op, ast.Eq)
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        shape = left.shape if isinstance(left, Tensor) else right.shape
        return Tensor(shape=shape)
    path = f"{path_of(left)} {_SIGNS.get(type(op), '?')} {path_of(right)}"
    return Unknown(path, _varies(left) or _varies(right))


def _identical(machine: Machine, left: Value, right: Value, node: ast.AST) -> Value:
    if right is None or left is None:
        other = left if right is None else right
        if isinstance(other, Grad):
            return not other.leaf.has_grad
        return is_none(machine, other)
    if isinstance(left, Unknown) or isinstance(right, Unknown):
        return True if left is right else Unknown(f"{path_of(left)} is {path_of(right)}")
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, External) and isinstance(right, External):
        return left.name == right.name
    return left is right


def _contained(left: Value, right: Value, node: ast.AST) -> Value:
    if isinstance(right, Bag):
        return isinstance(left, str) and left in right.attributes
    if isinstance(right, str | list | tuple | dict | set | frozenset | range) and not isinstance(
        left, Unknown | Tensor
    ):
        try:
            if isinstance(right, list | tuple) and any(isinstance(element, Unknown) for element in right):
                return Unknown(f"{path_of(left)} in {path_of(right)}")
            return left in right
        except TypeError:
            return False
    return Unknown(f"{path_of(left)} in {path_of(right)}", _varies(left))
