"""What a batch is made of: walking, counting and moving nested tensors.

A batch is a tensor, or any nesting of lists, tuples, named tuples, mappings and dataclasses around tensors. Everything
else in it (None, numbers, text, options) belongs to the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from copy import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradledger.errors import UserError


def tensor_leaves(batch: Any, path: str = "batch") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a batch, each with the expression that reaches it, such as ``batch['labels']``."""
    if isinstance(batch, Tensor):
        yield path, batch
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from tensor_leaves(value, f"{path}[{key!r}]")
    elif isinstance(batch, list | tuple):
        for index, value in enumerate(batch):
            yield from tensor_leaves(value, f"{path}[{index}]")
    elif is_dataclass(batch) and not isinstance(batch, type):
        for field in fields(batch):
            yield from tensor_leaves(getattr(batch, field.name), f"{path}.{field.name}")


DESCEND = object()
"""What a visitor returns to have a node's parts visited instead."""


def rebuild(node: Any, visit: Callable[[Any, str], Any], path: str = "batch") -> Any:
    """The same nesting with nodes replaced by what ``visit(node, path)`` returns for them.

    Args:
        node: The nesting.
        visit: Gives the replacement, or :data:`DESCEND`; a node without parts then stays as it is.
        path: The expression that reaches the node, such as ``batch['labels']``.
    """
    replacement = visit(node, path)
    if replacement is not DESCEND:
        return replacement
    if isinstance(node, Mapping):
        return _like_mapping(node, {key: rebuild(value, visit, f"{path}[{key!r}]") for key, value in node.items()})
    if isinstance(node, list | tuple):
        values = [rebuild(value, visit, f"{path}[{index}]") for index, value in enumerate(node)]
        return _like_sequence(node, values)
    if is_dataclass(node) and not isinstance(node, type):
        parts = {f.name: rebuild(getattr(node, f.name), visit, f"{path}.{f.name}") for f in fields(node) if f.init}
        return replace(node, **parts)
    return node


def map_tensors(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same nesting with ``function`` applied to each tensor."""
    return rebuild(batch, lambda node, _: function(node) if isinstance(node, Tensor) else DESCEND)


def count_samples(batch: Any) -> int:
    """The leading dimension that the batch's tensors share.

    Raises:
        UserError: There is no tensor with a leading dimension, or two tensors disagree about it.
    """
    if type(batch) in (list, tuple) and len(batch) == 2:  # the usual (inputs, labels), without the general walk
        inputs, labels = batch
        if isinstance(inputs, Tensor) and isinstance(labels, Tensor) and inputs.dim() and labels.dim():
            num_samples = inputs.size(0)
            if num_samples == labels.size(0):
                return num_samples
    sizes = {path: leaf.size(0) for path, leaf in tensor_leaves(batch) if leaf.dim() > 0}
    if not sizes:
        raise UserError(
            f"a micro-batch of type {type(batch).__name__} holds no tensor with a leading dimension, so its samples "
            "cannot be counted: give weight= (a number, or a callable on the micro-batch)"
        )
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{path} has {size}" for path, size in sizes.items())
        raise UserError(
            f"the tensors of a micro-batch disagree about the number of samples: {listed}; "
            "give weight= (a number, or a callable on the micro-batch)"
        )
    return next(iter(sizes.values()))


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on ``device``; tensors that are there already are not copied."""
    return map_tensors(batch, lambda leaf: leaf.to(device, non_blocking=True))


def _like_mapping(original: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    """A mapping of the original's type where it can be made from one (Hugging Face's encodings and outputs can)."""
    kind: Any = type(original)
    try:
        return kind(**values) if is_dataclass(original) else kind(values)
    except TypeError:
        if not isinstance(original, MutableMapping):
            return values
    copied = copy(original)  # a defaultdict, and others that are made of something else than a mapping
    copied.clear()
    copied.update(values)
    return copied


def _like_sequence(original: list[Any] | tuple[Any, ...], values: list[Any]) -> Any:
    """A list or tuple of the original's type where it can be made."""
    kind: Any = type(original)
    if hasattr(original, "_fields"):
        return kind(*values)
    try:
        return kind(values)
    except TypeError:
        if isinstance(original, tuple):
            return tuple(values)
    copied = copy(original)  # a list that is made of something else than its items
    copied[:] = values
    return copied
