"""Splitting: which parts of a batch belong to a sample, and micro-batches cut from them.

Tensors are cut along their first dimension, nested tensors by component, lists of samples by item; everything that
belongs to the whole batch (None, numbers, text, tensors without dimensions, options) is kept whole in each micro-batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from gradledger.engine.batches.nesting import DESCEND, rebuild, tensor_leaves
from gradledger.errors import UserError

Split = Callable[[Any, int], Sequence[Any]]
"""``split(batch, micro_batch_size)`` gives micro-batches of at most that many samples; it can split its own results."""

_MOST_FIELDS = 3
"""A list of more tensors of one shape is not taken for the fields of a batch."""

_CUTTABLE = (torch.strided, torch.jagged, torch.sparse_coo)

_ADVICE = "give split= (a callable: batch, micro_batch_size -> micro-batches), or keep it out of the batch"


class Samples(Protocol):
    """Samples that micro-batches are cut from."""

    @property
    def num_samples(self) -> int:
        """How many there are."""
        ...

    def micro_batch(self) -> Any:
        """All of them, as one micro-batch."""
        ...

    def cut(self, micro_batch_size: int) -> list[Samples]:
        """Pieces of at most ``micro_batch_size`` samples, in order."""
        ...

    def signature(self) -> tuple[Any, ...]:
        """What batches of one kind share: types and shapes of a sample, dimensions rounded up to powers of two."""
        ...


def read_samples(batch: Any, split: Split | None = None) -> Samples:
    """The samples of a batch.

    Args:
        batch: Any nesting of lists, tuples, mappings and dataclasses around tensors, or around lists of samples.
        split: The user's own way to split it.

    Raises:
        UserError: A leaf cannot be split; the message names it. Or there is no sample at all.
    """
    if split is not None:
        if not callable(split):
            raise UserError(f"split= must be callable as split(batch, micro_batch_size), not {split!r}")
        return _UserSamples(batch, split)
    reading = _Reading(batch)
    if reading.num_samples == 0:
        raise UserError("the batch holds 0 samples: there is nothing to update from")
    return BatchSamples(batch, reading, range(reading.num_samples))


def split_batch(batch: Any, micro_batch_size: int) -> list[Any]:
    """Cut a batch into micro-batches of ``micro_batch_size`` samples, the last one shorter.

    Raises:
        UserError: The batch cannot be split, or the size is below 1.
    """
    return [piece.micro_batch() for piece in read_samples(batch).cut(check_size(micro_batch_size))]


def check_size(micro_batch_size: Any) -> int:
    """The size, once it is known to be one.

    Raises:
        UserError: It is not a whole number, or below 1.
    """
    if isinstance(micro_batch_size, bool) or not isinstance(micro_batch_size, int) or micro_batch_size < 1:
        raise UserError(f"{micro_batch_size=} must be a whole number of samples, at least 1, or 'auto'")
    return micro_batch_size


class BatchSamples:
    """Some samples of a batch, kept as the batch and their positions until a micro-batch is asked for.

    Args:
        batch: The whole batch.
        reading: What its leaves are.
        indices: The positions of the samples.
    """

    def __init__(self, batch: Any, reading: _Reading, indices: Sequence[int]) -> None:
        self.batch = batch
        self._reading = reading
        self.indices = indices

    @property
    def paths(self) -> Collection[str]:
        """The leaves that are split."""
        return self._reading.sizes.keys()

    @property
    def num_samples(self) -> int:
        """How many there are."""
        return len(self.indices)

    def micro_batch(self) -> Any:
        """All of them, as one micro-batch; neighbouring samples are views of the batch's tensors."""
        if self.num_samples == self._reading.num_samples and isinstance(self.indices, range):
            return self.batch

        def take(node: Any, path: str) -> Any:
            if path not in self._reading.sizes:
                return DESCEND
            return _take_rows(node, self.indices) if isinstance(node, Tensor) else _take_items(node, self.indices)

        return rebuild(self.batch, take)

    def cut(self, micro_batch_size: int) -> list[Samples]:
        """Pieces of at most ``micro_batch_size`` samples, in order."""
        starts = range(0, self.num_samples, check_size(micro_batch_size))
        return [self.pick(self.indices[start : start + micro_batch_size]) for start in starts]

    def signature(self) -> tuple[Any, ...]:
        """What batches of one kind share: types and shapes of a sample, dimensions rounded up to powers of two."""
        return tuple((path, *_kind_of(leaf)) for path, leaf in tensor_leaves(self.batch) if path in self.paths)

    def pick(self, indices: Sequence[int]) -> BatchSamples:
        """The samples at these positions of the whole batch, in this order."""
        return BatchSamples(self.batch, self._reading, indices)


class _UserSamples:
    def __init__(self, batch: Any, split: Split) -> None:
        self._batch = batch
        self._split = split
        self._num_samples: int | None = None

    @property
    def num_samples(self) -> int:
        if self._num_samples is None:
            self._num_samples = len(self._pieces(1))
        return self._num_samples

    def micro_batch(self) -> Any:
        return self._batch

    def cut(self, micro_batch_size: int) -> list[Samples]:
        return [_UserSamples(piece, self._split) for piece in self._pieces(check_size(micro_batch_size))]

    def signature(self) -> tuple[Any, ...]:
        return tuple(_kind_of(leaf) for _, leaf in tensor_leaves(self._batch))

    def _pieces(self, micro_batch_size: int) -> list[Any]:
        pieces = self._split(self._batch, micro_batch_size)
        if not isinstance(pieces, Iterable):
            raise UserError(f"split(batch, {micro_batch_size}) gave a {type(pieces).__name__}, not micro-batches")
        pieces = list(pieces)
        if not pieces:
            raise UserError(f"split(batch, {micro_batch_size}) gave no micro-batch: there is nothing to update from")
        return pieces


class _Reading:
    """Which leaves of a batch hold one part per sample, and how many samples that makes.

    A list is ambiguous. One of dicts, tuples or text holds samples. One of tensors holds the fields of a batch, as a
    ``DataLoader`` makes it of a tuple, where their first dimensions agree, and else samples of unlike lengths. A tuple
    holds fields. But one of text holds samples, as a ``DataLoader`` makes it, and so does one inside of a batch whose
    sizes agree in no other way, as ``tuple(zip(*samples))`` makes it.
    """

    def __init__(self, batch: Any) -> None:
        num_samples = _shared_by_fields(batch)
        if num_samples is not None:
            self.num_samples = num_samples
            self.sizes = {f"batch[{index}]": num_samples for index in range(len(batch))}
            return
        chosen = as_fields = _Sizes(batch, tensors_are_samples=False)
        if not as_fields.agree:
            readings = (_Sizes(batch, tensors_are_samples=True, tuples_are_samples=each) for each in (False, True))
            agreeing = next((reading for reading in readings if reading.agree), None)
            if agreeing is None:
                raise _unlike(as_fields.sizes)
            chosen = agreeing
        sizes = chosen.sizes or chosen.plain
        if not sizes or len(set(sizes.values())) > 1:
            raise UserError(
                f"a batch of type {type(batch).__name__} holds no tensor with a leading dimension and no list of "
                f"samples, so it cannot be split: {_ADVICE}"
            )
        self.num_samples = next(iter(sizes.values()))
        plain = {path: size for path, size in chosen.plain.items() if size == self.num_samples}
        self.sizes = {**sizes, **plain}
        if chosen is as_fields:
            _refuse_ambiguous(batch)


def _shared_by_fields(batch: Any) -> int | None:
    """The number of samples of the usual (inputs, labels), found without the general walk; None for others."""
    if type(batch) not in (list, tuple) or not 0 < len(batch) <= _MOST_FIELDS:
        return None
    sizes = {field.size(0) if isinstance(field, Tensor) and field.dim() else None for field in batch}
    return sizes.pop() if len(sizes) == 1 else None


class _Sizes:
    """The number of parts of each leaf under one reading of lists.

    ``sizes`` are of leaves that must be split; ``plain`` ones hold no tensor and are split where their number fits.
    """

    def __init__(self, batch: Any, *, tensors_are_samples: bool, tuples_are_samples: bool = False) -> None:
        self.sizes: dict[str, int] = {}
        self.plain: dict[str, int] = {}
        self._batch = batch
        self._tensors_are_samples = tensors_are_samples
        self._tuples_are_samples = tuples_are_samples
        rebuild(batch, self._visit)

    @property
    def agree(self) -> bool:
        return len(set(self.sizes.values())) <= 1

    def _visit(self, node: Any, path: str) -> Any:
        if isinstance(node, Tensor):
            if node.layout not in _CUTTABLE:
                raise UserError(f"{path} cannot be split: its layout is {node.layout}; {_ADVICE}")
            if node.dim():
                self.sizes[path] = node.size(0)
        elif isinstance(node, list | tuple) and node and (isinstance(node, list) or self._is_row(node)):
            if not any(True for _ in tensor_leaves(node)):
                self.plain[path] = len(node)
            elif self._holds_samples(node):
                self.sizes[path] = len(node)
            else:
                return DESCEND
        elif _is_array(node):
            self.plain[path] = len(node)
        else:
            return DESCEND
        return node

    def _is_row(self, node: Any) -> bool:
        """Whether a tuple is read as a list is."""
        if type(node) is not tuple:
            return False
        is_text = all(isinstance(item, str | bytes) for item in node)
        return is_text or (self._tuples_are_samples and node is not self._batch)

    def _holds_samples(self, items: Sequence[Any]) -> bool:
        if all(isinstance(item, Tensor) for item in items):
            return self._tensors_are_samples or all(item.dim() == 0 for item in items)
        is_alike = len({type(item) for item in items}) == 1
        return is_alike and (isinstance(items[0], Mapping | tuple) or is_dataclass(items[0]))


def _kind_of(leaf: Tensor) -> tuple[str, tuple[int, ...]]:
    return _kind(leaf.dtype, () if leaf.is_nested else leaf.shape[1:])


@lru_cache(maxsize=256)
def _kind(dtype: torch.dtype, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    return str(dtype), tuple(1 << (size - 1).bit_length() if size else 0 for size in shape)


def _is_array(node: Any) -> bool:
    """A NumPy array, or what looks like one, with a first dimension."""
    return hasattr(node, "__array__") and hasattr(node, "shape") and len(node.shape) > 0


def _take_rows(leaf: Tensor, indices: Sequence[int]) -> Tensor:
    if leaf.is_nested:
        components = leaf.unbind()
        return torch.nested.as_nested_tensor([components[index] for index in indices], layout=leaf.layout)
    if isinstance(indices, range) and leaf.layout == torch.strided:
        return leaf.narrow(0, indices.start, len(indices))
    return leaf.index_select(0, torch.as_tensor(indices, device=leaf.device))


def _take_items(items: Any, indices: Sequence[int]) -> Any:
    if isinstance(items, list | tuple):
        return type(items)([items[index] for index in indices])
    return items[list(indices)]


def _unlike(sizes: dict[str, int]) -> UserError:
    usual, count = Counter(sizes.values()).most_common(1)[0]
    odd = {path: size for path, size in sizes.items() if size != usual}
    if count == 1 or len(odd) > 1:
        listed = ", ".join(f"{path} has {size}" for path, size in sizes.items())
        return UserError(f"the tensors of the batch disagree about the number of samples: {listed}; {_ADVICE}")
    (path, size) = next(iter(odd.items()))
    return UserError(
        f"{path} cannot be split: its first dimension is {size} where the other tensors of the batch have {usual}; "
        f"{_ADVICE}"
    )


def _refuse_ambiguous(batch: Any) -> None:
    if isinstance(batch, list) and len(batch) > _MOST_FIELDS and all(isinstance(item, Tensor) for item in batch):
        shapes = {tuple(item.shape) for item in batch}
        if len(shapes) == 1:
            raise UserError(
                f"a list of {len(batch)} tensors of the shape {shapes.pop()} may hold {len(batch)} samples or "
                f"{len(batch)} fields of a batch: stack the samples, make the fields a tuple, or give split="
            )
