"""Methods of tensors that only change the shape."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from gradledger.lint.machine.values import Tensor, Unknown, Value
from gradledger.lint.torch import tensors
from gradledger.lint.torch.tensors import numel

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]


def _view(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    if args and all(not isinstance(arg, int | list | tuple | Unknown | Tensor) for arg in args):
        return tensor
    return tensors.reshaped(tensor, args)


def _flatten(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    start = kwargs.get("start_dim", args[0] if args else 0)
    if tensor.shape is None or not isinstance(start, int):
        return tensor
    return tensor.like(shape=(*tensor.shape[:start], numel(tensor.shape[start:])))


def _transpose(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    if tensor.shape is None or len(args) not in (0, 2):
        return tensor
    sizes = list(tensor.shape)
    a, b = args if args else (0, 1)
    try:
        sizes[a], sizes[b] = sizes[b], sizes[a]
    except (IndexError, TypeError):
        return tensor.like(shape=None)
    return tensor.like(shape=tuple(sizes))


def _permute(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    order = args[0] if len(args) == 1 and isinstance(args[0], list | tuple) else args
    try:
        return tensor.like(shape=tuple(tensor.shape[i] for i in order) if tensor.shape else None)
    except (IndexError, TypeError):
        return tensor.like(shape=None)


def _unsqueeze(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    dim = kwargs.get("dim", args[0] if args else 0)
    if tensor.shape is None or not isinstance(dim, int):
        return tensor
    sizes = list(tensor.shape)
    sizes.insert(dim if dim >= 0 else len(sizes) + 1 + dim, 1)
    return tensor.like(shape=tuple(sizes))


def _squeeze(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    dim = kwargs.get("dim", args[0] if args else None)
    if tensor.shape is None:
        return tensor
    if isinstance(dim, int):
        at = dim % len(tensor.shape) if tensor.shape else 0
        return tensor.like(shape=tuple(s for i, s in enumerate(tensor.shape) if i != at or s != 1))
    return tensor.like(shape=tuple(size for size in tensor.shape if size != 1))


def _split(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    size = args[0] if args else kwargs.get("split_size", kwargs.get("split_size_or_sections"))
    at, length = _axis(tensor, kwargs.get("dim", args[1] if len(args) > 1 else 0))
    if length is None:
        return [tensor] * 2
    if isinstance(size, list | tuple):
        return [_with_size(tensor, at, part) for part in size]
    if not isinstance(size, int) or size < 1:
        return [tensor] * 2
    return [_with_size(tensor, at, min(size, length - start)) for start in range(0, length, size)]


def _axis(tensor: Tensor, dim: Value) -> tuple[int, int | None]:
    shape = tensor.shape
    if not shape or not isinstance(dim, int) or not -len(shape) <= dim < len(shape):
        return 0, None
    return dim % len(shape), shape[dim]


def _with_size(tensor: Tensor, at: int, size: Value) -> Tensor:
    shape = tensor.shape or ()
    return tensor.like(shape=(*shape[:at], size if isinstance(size, int) else None, *shape[at + 1 :]))


def _chunk(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    parts = args[0] if args else kwargs.get("chunks")
    if not isinstance(parts, int) or parts < 1:
        return [tensor] * 2
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    _, length = _axis(tensor, dim)
    return [tensor] * parts if length is None else _split(machine, tensor, [-(-length // parts), dim], {}, node)


def _unbind(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return list(machine.iterate(tensor, node))


def _repeat(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    sizes = tensors.shape_from(args)
    if sizes is None or tensor.shape is None or len(sizes) < len(tensor.shape):
        return tensor.like(shape=None)
    old = (1,) * (len(sizes) - len(tensor.shape)) + tensor.shape
    return tensor.like(shape=tuple(None if a is None or b is None else a * b for a, b in zip(old, sizes, strict=True)))


def _expand(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return tensor.like(shape=tensors.shape_from(args))


def _gather(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    index = args[1] if len(args) > 1 else kwargs.get("index")
    return tensor.like(shape=index.shape if isinstance(index, Tensor) else None)
