"""Functions that make tensors: from sizes, from data, from other tensors."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradledger.lint.machine.values import (
    Bag,
    External,
    Grad,
    Leaf,
    Tensor,
    Unknown,
    Value,
)
from gradledger.lint.torch import tensors

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]


def of_size(args: Args, kwargs: Kwargs) -> Value:
    """A tensor of the size that the arguments spell."""
    size = kwargs.get("size")
    given = [size] if size is not None else [a for a in args if not isinstance(a, External | Bag | str)]
    shape = tensors.shape_from(given)
    if kwargs.get("requires_grad") is True:
        return Leaf("tensor", shape, is_guess=True)
    return Tensor(shape)


def _zeros(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    made = of_size(args, kwargs)
    if isinstance(made, Tensor) and made.shape in ((), (1,)):
        return made.like(shape=(), number=0.0)
    return made


def _randint(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    size = kwargs.get("size", next((arg for arg in args if isinstance(arg, tuple | list)), None))
    return Tensor(None if size is None else tensors.shape_from([size]))


def _tensor(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    data_given = args[0] if args else None
    if isinstance(data_given, Tensor):
        result: Tensor = data_given.like(leaves=frozenset())
    elif isinstance(data_given, bool | int | float):
        result = Tensor((), number=float(data_given))
    else:
        result = Tensor(_nested_shape(data_given))
    return Leaf("tensor", result.shape, is_guess=True) if kwargs.get("requires_grad") is True else result


def _nested_shape(value: Value) -> tuple[int | None, ...] | None:
    if isinstance(value, list | tuple | range):
        inner = _nested_shape(value[0]) if len(value) else ()
        return None if inner is None else (len(value), *inner)
    return None if isinstance(value, Unknown) and not value.varying else ()


def _like(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    shape = tensors.as_tensor(args[0]).shape if args else None
    return Leaf("tensor", shape, is_guess=True) if kwargs.get("requires_grad") is True else Tensor(shape)


def _zeros_like(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    made = _like(machine, args, kwargs, node)
    if args and isinstance(args[0], Leaf | Grad) and isinstance(made, Tensor):
        made.number = 0.0
    return made


def _arange(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    bounds = [tensors.number_or(arg) for arg in args]
    if kwargs.get("end") is not None:
        bounds.append(kwargs["end"])
    if all(isinstance(b, int) for b in bounds) and bounds:
        return Tensor((len(range(*bounds[:3])),), is_positions=len(bounds) == 1) if 0 not in bounds[2:3] else Tensor()
    if all(isinstance(b, int | float) for b in bounds) and bounds:
        start, stop, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
        return Tensor((max(0, math.ceil((stop - start) / step)),))
    return Tensor((None,), is_positions=len(bounds) == 1)


def _linspace(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    steps = kwargs.get("steps", args[2] if len(args) > 2 else 100)
    return Tensor((steps if isinstance(steps, int) else None,))


def _stack(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    parts = list(machine.iterate(args[0], node)) if args else []
    given = [tensors.as_tensor(part) for part in parts]
    inner = given[0].shape if given else ()
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    shape = None if inner is None or dim != 0 else (len(given), *inner)
    if given and given[0].reduction is not None and given[0].shape == ():
        return given[0].like(shape=(len(given),), leaves=tensors.joint_leaves(given), reduction=None)
    return Tensor(shape, tensors.joint_leaves(given), coupled=any(t.coupled for t in given))


def _cat(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    given = [tensors.as_tensor(part) for part in (machine.iterate(args[0], node) if args else [])]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    shape: tuple[int | None, ...] | None = None
    first = given[0].shape if given else None
    if first and isinstance(dim, int) and -len(first) <= dim < len(first):
        at = dim % len(first)
        parts = [t.shape[at] if t.shape and len(t.shape) > at else None for t in given]
        total = None if any(size is None for size in parts) else sum(size for size in parts if size is not None)
        shape = (*first[:at], total, *first[at + 1 :])
    leaves = tensors.joint_leaves(given)
    if dim == 0 and leaves and not machine.no_grad and not all(t.leaves for t in given):
        leaves |= {tensors.window_mark()}
    return Tensor(shape, leaves, coupled=any(t.coupled for t in given))


def _where(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    if len(args) < 3:
        return (Tensor((None,)),)
    a, b = tensors.as_tensor(args[1]), tensors.as_tensor(args[2])
    return Tensor(tensors.broadcast(a.shape, b.shape), a.leaves | b.leaves)


def _pad_sequence(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    parts = list(machine.iterate(args[0], node)) if args else []
    return Tensor((len(parts), None), tensors.joint_leaves(parts))


def _randperm(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return Tensor((args[0],)) if args and isinstance(args[0], int) else Tensor((None,))


CREATION: dict[str, Callable[..., Any]] = {
    "zeros": _zeros,
    "randint": _randint,
    "tensor": _tensor,
    "as_tensor": _tensor,
    "from_numpy": _tensor,
    "Tensor": _tensor,
    "LongTensor": _tensor,
    "FloatTensor": _tensor,
    "full": lambda machine, args, kwargs, node: Tensor(tensors.shape_from(args[:1])),
    "randn_like": _like,
    "rand_like": _like,
    "ones_like": _like,
    "empty_like": _like,
    "full_like": _like,
    "zeros_like": _zeros_like,
    "arange": _arange,
    "linspace": _linspace,
    "stack": _stack,
    "cat": _cat,
    "concat": _cat,
    "where": _where,
    "randperm": _randperm,
    "pad_sequence": _pad_sequence,
}
"""What makes a tensor, by the last part of its name."""
