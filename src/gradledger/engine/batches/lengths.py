"""Lengths: micro-batches of samples of like length, full up to a number of tokens, with the padding cut off.

A gradient is a sum over samples, so it does not care which of them share a micro-batch. What it costs does: each sample
is padded to the longest of its micro-batch. Sorted by length and filled up to a token budget, the same samples make
fewer micro-batches with little padding. (Dropout draws other masks, as it does for any other order of the samples.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from gradledger.engine.batches.nesting import DESCEND, rebuild, tensor_leaves
from gradledger.engine.batches.splitting import BatchSamples, Samples, read_samples
from gradledger.errors import UserError

Lengths = Sequence[int] | Tensor | Callable[[Any], Sequence[int] | Tensor]
"""The number of tokens of each sample of a batch, or what gives them for a batch."""

TokenBudget = int | Literal["auto"]


class ByTokens:
    """Micro-batches of at most so many tokens, padding counted; a sample that is longer is alone.

    Samples go in by length, longest first, each micro-batch as full as the budget allows: no other way to share them
    out needs fewer micro-batches.
    """

    def cut(self, samples: Samples, size: int) -> list[Samples]:
        """Micro-batches of at most ``size`` tokens."""
        assert isinstance(samples, PaddedSamples)
        pieces: list[Samples] = []
        start = 0
        while start < samples.num_samples:
            longest = samples.length_of(start)
            stop = min(samples.num_samples, start + max(1, size // longest))
            pieces.append(samples.between(start, stop))
            start = stop
        return pieces

    def size_of(self, samples: Samples) -> int:
        """The tokens of all samples in one micro-batch, padded to the longest."""
        assert isinstance(samples, PaddedSamples)
        return samples.num_samples * samples.length_of(0)


class PaddedSamples:
    """Samples in order of falling length; their micro-batches are cut to the longest sample in them.

    Args:
        samples: The samples of a right-padded batch, or of lists of samples that are padded later.
        lengths: The tokens of each sample of the whole batch.
        padded: The leaves with a padded dimension, and which.
        bucket: Lengths are rounded up to a multiple of it.
    """

    def __init__(
        self, samples: BatchSamples, lengths: Sequence[int], padded: Mapping[str, tuple[int, ...]], bucket: int
    ) -> None:
        self._samples = samples
        self._lengths = lengths
        self._padded = padded
        self._bucket = bucket
        self.indices = samples.indices

    @property
    def num_samples(self) -> int:
        """How many there are."""
        return self._samples.num_samples

    def length_of(self, position: int) -> int:
        """The padded length of a micro-batch whose first, and so longest, sample is the one at ``position``."""
        length = max(1, self._lengths[self.indices[position]])
        return -(-length // self._bucket) * self._bucket

    def between(self, start: int, stop: int) -> PaddedSamples:
        """Some of them."""
        picked = self._samples.pick(self.indices[start:stop])
        return PaddedSamples(picked, self._lengths, self._padded, self._bucket)

    def cut(self, micro_batch_size: int) -> list[Samples]:
        """Pieces of at most ``micro_batch_size`` samples."""
        starts = range(0, self.num_samples, micro_batch_size)
        return [self.between(start, min(start + micro_batch_size, self.num_samples)) for start in starts]

    def signature(self) -> tuple[Any, ...]:
        """What batches of one kind share."""
        return self._samples.signature()

    def micro_batch(self) -> Any:
        """All of them, without the padding that none of them needs."""
        length = self.length_of(0)

        def trim(node: Any, path: str) -> Any:
            if path not in self._padded:
                return DESCEND
            for dimension in self._padded[path]:
                node = node.narrow(dimension, 0, min(length, node.size(dimension)))
            return node

        return rebuild(self._samples.micro_batch(), trim)


def read_padded_samples(batch: Any, lengths: Lengths, bucket: int | None = None) -> PaddedSamples:
    """The samples of a batch with their lengths.

    Args:
        batch: Right-padded tensors whose second dimension is that of the tokens, beside others without one.
        lengths: The tokens of each sample, or what gives them for the batch.
        bucket: Round lengths up to a multiple of it, so that micro-batches have few shapes.

    Raises:
        UserError: Lengths do not fit the batch, or the batch is not padded on the right.
    """
    if bucket is not None and (isinstance(bucket, bool) or not isinstance(bucket, int) or bucket < 1):
        raise UserError(f"length_bucket={bucket!r} must be a whole number of tokens, at least 1")
    samples = read_samples(batch)
    assert isinstance(samples, BatchSamples)
    counted = _counted(lengths(batch) if callable(lengths) else lengths, samples.num_samples)
    padded = _padded_leaves(batch, samples, max(counted))
    _check_right_padded(batch, counted, padded)
    return _by_length(samples, counted, padded, bucket)


def _by_length(
    samples: BatchSamples, counted: list[int], padded: Mapping[str, tuple[int, ...]], bucket: int | None
) -> PaddedSamples:
    order = sorted(range(len(counted)), key=lambda index: -counted[index])
    return PaddedSamples(samples.pick(order), counted, padded, bucket or 1)


def check_budget(budget: Any, samples: PaddedSamples) -> TokenBudget:
    """The budget, once it is known to be one that every sample fits in.

    Raises:
        UserError: It is no number, or a sample is longer.
    """
    if budget == "auto":
        return "auto"
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise UserError(f"token_budget={budget!r} must be a whole number of tokens, at least 1, or 'auto'")
    if samples.length_of(0) > budget:
        raise UserError(
            f"sample {samples.indices[0]} makes a micro-batch of {samples.length_of(0)} tokens by itself, more than "
            f"token_budget={budget}: raise the budget or shorten the sample"
        )
    return budget


def _counted(lengths: Any, num_samples: int) -> list[int]:
    values = lengths.tolist() if hasattr(lengths, "tolist") else list(lengths)
    if len(values) != num_samples or not all(isinstance(value, int) and value >= 0 for value in values):
        raise UserError(
            f"lengths= must be {num_samples} whole numbers, one for each sample of the batch, not {len(values)} values "
            f"such as {values[:3]}"
        )
    return values


def _padded_leaves(batch: Any, samples: BatchSamples, longest: int) -> dict[str, tuple[int, ...]]:
    """The dimensions of tokens: the second of each leaf, where it is the padded length; both of a square mask."""
    leaves = [(path, leaf) for path, leaf in tensor_leaves(batch) if path in samples.paths and not leaf.is_nested]
    widths = {leaf.size(1) for _, leaf in leaves if leaf.dim() >= 2 and leaf.size(1) >= longest}
    integers = {leaf.size(1) for _, leaf in leaves if leaf.dim() == 2 and not leaf.is_floating_point()} & widths
    width = max(integers or widths, default=None)
    padded = {}
    for path, leaf in leaves:
        dimensions = [1] if leaf.dim() >= 2 and leaf.size(1) == width else []
        if leaf.dim() >= 3 and leaf.shape[-2:] == (width, width) and (leaf.dim() >= 4 or leaf.dtype == torch.bool):
            dimensions = [leaf.dim() - 2, leaf.dim() - 1]
        if dimensions:
            padded[path] = tuple(dimensions)
    return padded


def _check_right_padded(batch: Any, lengths: Sequence[int], padded: Mapping[str, tuple[int, ...]]) -> None:
    """What is cut off must hold nothing: beyond each sample's length a column has one value (zeros, or positions)."""
    for path, leaf in tensor_leaves(batch):
        if padded.get(path) != (1,) or leaf.dim() != 2:
            continue
        beyond = torch.arange(leaf.size(1), device=leaf.device) >= torch.as_tensor(lengths, device=leaf.device)[:, None]
        values = leaf.to(torch.uint8) if leaf.dtype == torch.bool else leaf
        low, high = _bounds(values)
        smallest = values.masked_fill(~beyond, high).amin(0)
        largest = values.masked_fill(~beyond, low).amax(0)
        if bool((beyond.any(0) & (smallest != largest)).any()):
            raise UserError(
                f"{path} holds values beyond its samples' lengths that are no padding: is it padded on the left, or "
                "are the lengths those of something else? Pad on the right"
            )


def _bounds(leaf: Tensor) -> tuple[Any, Any]:
    info: Any = torch.finfo(leaf.dtype) if leaf.is_floating_point() else torch.iinfo(leaf.dtype)
    return info.min, info.max


class Repartition:
    """Shares out the samples of a window's micro-batches anew, by length.

    Args:
        lengths: Gives the tokens of each sample of a micro-batch.
        token_budget: The most tokens of a new micro-batch; ``"auto"`` is the most that the given ones have.
        bucket: Lengths are rounded up to a multiple of it.
        padding: The padding value, where it is not seen.
    """

    def __init__(
        self, lengths: Callable[[Any], Any], token_budget: TokenBudget, bucket: int | None, padding: Any
    ) -> None:
        if not callable(lengths):
            raise UserError(f"lengths= must be callable on a micro-batch here, not {type(lengths).__name__}")
        self._lengths = lengths
        self._token_budget = token_budget
        self._bucket = bucket
        self._padding = padding

    def __call__(self, micro_batches: Sequence[Any]) -> list[Samples]:
        """The new micro-batches' samples.

        Raises:
            UserError: The micro-batches cannot be put together, or a sample is longer than the budget.
        """
        for micro_batch in micro_batches:
            read_padded_samples(micro_batch, self._lengths, self._bucket)  # checks it
        batch, lengths = joined(micro_batches, self._lengths, self._padding)
        whole = read_samples(batch)
        assert isinstance(whole, BatchSamples)
        samples = _by_length(whole, lengths, _padded_leaves(batch, whole, max(lengths)), self._bucket)
        budget = check_budget(self._token_budget, samples)
        most = max(_num_tokens(self._lengths(each), self._bucket or 1) for each in micro_batches)
        return ByTokens().cut(samples, most if budget == "auto" else budget)


def _num_tokens(lengths: Any, bucket: int) -> int:
    return len(lengths) * max(1, -(-int(max(lengths)) // bucket) * bucket)


def joined(micro_batches: Sequence[Any], lengths: Callable[[Any], Any], padding: Any) -> tuple[Any, list[int]]:
    """Right-padded micro-batches as one batch, and the lengths of its samples.

    Args:
        micro_batches: Of the same nesting.
        lengths: Gives the lengths of a micro-batch's samples.
        padding: The value to pad with: a number, or a mapping of them by a leaf's path or last key. None takes the one
            that is seen in the leaf's own padding.

    Raises:
        UserError: The micro-batches are not alike, or a padding value is needed and not known.
    """
    readings = [read_samples(micro_batch) for micro_batch in micro_batches]
    counted = [
        _counted(lengths(each), reading.num_samples) for each, reading in zip(micro_batches, readings, strict=True)
    ]
    leaves = [dict(tensor_leaves(micro_batch)) for micro_batch in micro_batches]
    if any(each.keys() != leaves[0].keys() for each in leaves):
        raise UserError("the micro-batches of a window differ in their leaves, so they cannot be re-partitioned")

    def join(node: Any, path: str) -> Any:
        if not isinstance(node, Tensor):
            return DESCEND
        parts = [each[path] for each in leaves]
        if node.dim() == 0:
            return node
        if len({part.shape[1:] for part in parts}) > 1:
            parts = list(_widened(path, parts, counted, padding))
        return torch.cat(parts)

    return rebuild(micro_batches[0], join), [length for each in counted for length in each]


def _widened(path: str, parts: list[Tensor], counted: list[list[int]], padding: Any) -> Iterator[Tensor]:
    width = max(part.size(1) for part in parts)
    value = _padding_of(path, parts, counted, padding)
    for part in parts:
        if part.shape[2:] != parts[0].shape[2:]:
            raise UserError(f"{path} differs between micro-batches in more than its second dimension: cannot be padded")
        wide = part.new_full((part.size(0), width, *part.shape[2:]), value)
        wide[:, : part.size(1)] = part
        yield wide


def _padding_of(path: str, parts: list[Tensor], counted: list[list[int]], padding: Any) -> Any:
    if isinstance(padding, Mapping):
        for key, value in padding.items():
            if path == key or path.endswith((f"[{key!r}]", f".{key}")):
                return value
    elif padding is not None:
        return padding
    for part, lengths in zip(parts, counted, strict=True):
        for row, length in zip(part, lengths, strict=True):
            if length < row.size(0):
                return row[-1].flatten()[0].item()
    raise UserError(
        f"{path} has to be padded, and no padding is seen in it to tell the value: give padding=, a number or a "
        "mapping such as {'input_ids': 0, 'labels': -100}"
    )
