"""What a batch is made of: walking, counting, splitting and moving nested tensors.

A batch is a tensor, or any nesting of lists, tuples, named tuples, mappings and dataclasses around tensors. Everything
else in it (None, numbers, text, options) belongs to the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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


def map_tensors(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same nesting with ``function`` applied to each tensor."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return _like_mapping(batch, {key: map_tensors(value, function) for key, value in batch.items()})
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(value, function) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map_tensors(value, function) for value in batch)
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{f.name: map_tensors(getattr(batch, f.name), function) for f in fields(batch)})
    return batch


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


def split_batch(batch: Any, micro_batch_size: int) -> list[Any]:
    """Cut a batch into micro-batches of ``micro_batch_size`` samples, the last one shorter.

    Tensors without a leading dimension and everything that is no tensor are kept whole in each.

    Raises:
        UserError: The tensors disagree about the number of samples, there are none, or the size is below 1.
    """
    if isinstance(micro_batch_size, bool) or not isinstance(micro_batch_size, int) or micro_batch_size < 1:
        raise UserError(f"{micro_batch_size=} must be a whole number of samples, at least 1")
    num_samples = count_samples(batch)
    if num_samples == 0:
        raise UserError("the batch holds 0 samples: there is nothing to update from")
    return [
        take_samples(batch, start, min(micro_batch_size, num_samples - start))
        for start in range(0, num_samples, micro_batch_size)
    ]


def take_samples(batch: Any, start: int, num_samples: int) -> Any:
    """The samples ``start`` to ``start + num_samples`` of a batch, as views."""
    return map_tensors(batch, lambda leaf: leaf.narrow(0, start, num_samples) if leaf.dim() else leaf)


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on ``device``; tensors that are there already are not copied."""
    return map_tensors(batch, lambda leaf: leaf.to(device, non_blocking=True))


def _like_mapping(original: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    """A mapping of the original's type where it can be made from one (Hugging Face's encodings and outputs can)."""
    kind: Any = type(original)
    try:
        return kind(**values) if is_dataclass(original) else kind(values)
    except TypeError:
        return values
