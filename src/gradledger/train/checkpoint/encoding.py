"""Nested states as tensors and JSON, and back, with nothing pickled.

JSON has no tensors, tuples, keys that are not text, or numbers that are not finite; each of them is an object with one
key that begins with ``$``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gradledger.errors import UserError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs

_TAGS = {"$tensor", "$tuple", "$pairs", "$float"}
_WITHOUT = "Set checkpoint_every to null to train without checkpoints"
_STORED_TYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.bool, torch.float8_e4m3fn, torch.float8_e5m2),
}


def encode(state: Any, name: str) -> tuple[Any, dict[str, Tensor]]:
    """A state as a JSON value, and the tensors that it refers to by name.

    Args:
        state: Mappings, lists, tuples, numbers, text, None and tensors, in any nesting.
        name: What messages and tensor names begin with.

    Raises:
        UserError: Something else is in it; the message says where.

    Tensors that ranks hold parts of are left as they are.

    Example:
        >>> encode({"step": torch.tensor(3.0), 5: (1, float("inf"))}, "optimizer")
        ({'$pairs': [['step', {'$tensor': 'optimizer.step'}], [5, {'$tuple': [1, {'$float': 'inf'}]}]]}, \
{'optimizer.step': tensor(3.)})
    """
    encoder = _Encoder()
    return encoder.value(state, name), encoder.tensors


class Tensors(Protocol):
    """Finds tensors by name."""

    def __getitem__(self, name: str, /) -> Tensor:
        """The tensor of that name."""
        ...


class _Encoder:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    def value(self, value: Any, path: str) -> Any:
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"$float": str(float(value))}
        if isinstance(value, Tensor):
            return {"$tensor": self._tensor(value, path)}
        if isinstance(value, Mapping):
            return self._mapping(value, path)
        if type(value) is list:
            return [self.value(item, f"{path}.{index}") for index, item in enumerate(value)]
        if type(value) is tuple:
            return {"$tuple": [self.value(item, f"{path}.{index}") for index, item in enumerate(value)]}
        raise UserError(
            f"{path} is a {type(value).__module__}.{type(value).__qualname__}: a checkpoint holds tensors, numbers, "
            f"text, lists, tuples and mappings, and nothing that would need pickle. {_WITHOUT}"
        )

    def _mapping(self, value: Mapping[Any, Any], path: str) -> Any:
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: self.value(item, f"{path}.{key}") for key, item in value.items()}
        pairs = [[self.value(key, path), self.value(item, f"{path}.{key}")] for key, item in value.items()]
        return {"$pairs": pairs}

    def _tensor(self, tensor: Tensor, path: str) -> str:
        """The name that the tensor is stored by: a tensor that is met twice is stored once."""
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype not in _STORED_TYPES:
            raise UserError(
                f"{path} is a tensor of type {tensor.dtype} and layout {tensor.layout}, which safetensors cannot hold. "
                f"{_WITHOUT}"
            )
        tensor = tensor.detach()
        own = tensor.to_local() if is_in_parts(tensor) else tensor
        key = (own.device, own.data_ptr(), own.dtype, tensor.shape, own.stride())
        if own.numel() and key in self._names:
            return self._names[key]
        self._names[key] = path
        self.tensors[path] = tensor if is_in_parts(tensor) else _on_its_own(tensor)
        return path


def is_in_parts(tensor: Any) -> TypeIs[DTensor]:
    """Whether ranks hold parts of a tensor."""
    module = sys.modules.get("torch.distributed.tensor")  # takes a while to import, and is there if such a tensor is
    return module is not None and isinstance(tensor, module.DTensor)


def _on_its_own(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, contiguous, in a storage that it does not share."""
    own = tensor.cpu().contiguous()
    is_whole = own.untyped_storage().nbytes() == own.numel() * own.element_size()
    return own if is_whole else own.clone()


def decode(value: Any, tensors: Tensors) -> Any:
    """The state that :func:`encode` was given, with its tensors as they are found by name.

    Raises:
        KeyError: A tensor is missing.
        ValueError: An object is of no known kind.

    Example:
        >>> state = {"betas": (0.9, 0.95), "state": {0: torch.ones(2)}}
        >>> decode(*encode(state, "optimizer"))
        {'betas': (0.9, 0.95), 'state': {0: tensor([1., 1.])}}
    """
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), None)
    if tag is None or not tag.startswith("$"):
        return {key: decode(item, tensors) for key, item in value.items()}
    if tag not in _TAGS or len(value) != 1:
        raise ValueError(f"unknown kind of value {tag!r}")
    return _TAG_READERS[tag](value[tag], tensors)


_TAG_READERS: dict[str, Callable[[Any, Tensors], Any]] = {
    "$tensor": lambda name, tensors: tensors[name],
    "$tuple": lambda items, tensors: tuple(decode(item, tensors) for item in items),
    "$pairs": lambda pairs, tensors: {decode(key, tensors): decode(item, tensors) for key, item in pairs},
    "$float": lambda text, _: float(text),
}
