"""Keys: what a captured graph has fixed, so that it is replayed for nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from gradledger.engine.batches.nesting import DESCEND, rebuild

Key = tuple[Any, ...]


def batch_key(micro_batch: Any) -> Key:
    """Shapes and types of a micro-batch's tensors, and all else in it, which a graph takes as it is.

    Example:
        >>> import torch
        >>> one, other = torch.zeros(4, 2), torch.ones(4, 2)
        >>> batch_key({"x": one, "scale": 2.0}) == batch_key({"x": other, "scale": 2.0})
        True
        >>> batch_key({"x": one, "scale": 2.0}) == batch_key({"x": one, "scale": 3.0})
        False
    """
    parts: list[Any] = []

    def note(node: Any, path: str) -> Any:
        if isinstance(node, Tensor):
            parts.append((path, node.shape, node.stride(), node.dtype))
            return node
        if not isinstance(node, Mapping | list | tuple) and not is_dataclass(node):
            parts.append((path, _value_key(node)))
        return DESCEND

    rebuild(micro_batch, note)
    return tuple(parts)


def function_key(function: Callable[..., Any]) -> Key:
    """What a function does: the same for a lambda that is written in a loop, and made anew each time around.

    Its code, its defaults and the values that it closes over count. Globals that it reads do not.
    """
    if isinstance(function, MethodType):
        return (_Same(function.__self__), *function_key(function.__func__))
    if isinstance(function, partial):
        bound = [_value_key(value) for value in (*function.args, *function.keywords.items())]
        return (partial, *bound, *function_key(function.func))
    if isinstance(function, FunctionType):
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        values = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items(), *cells)
        return (function.__code__, *map(_value_key, values))
    return (_Same(function),)


def model_key(model: nn.Module, parameters: Sequence[Tensor]) -> Key:
    """Where a model's tensors are, which of them are trained, and in which mode each part is."""
    tensors = [*model.parameters(), *model.buffers(), *parameters]
    return (
        *((tensor.data_ptr(), tensor.requires_grad) for tensor in tensors),
        *(module.training for module in model.modules()),
    )


def _value_key(value: Any) -> Any:
    if isinstance(value, FunctionType | MethodType | partial):
        return function_key(value)
    if isinstance(value, bool | int | float | str | bytes | type(None)):
        return type(value), value
    if isinstance(value, tuple):
        return type(value), tuple(map(_value_key, value))
    return _Same(value)


class _Same:
    """Equal for one and the same object only; it is kept alive, so that no other can take its place."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._value is self._value

    def __hash__(self) -> int:
        return id(self._value)
