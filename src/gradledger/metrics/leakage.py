"""Samples of the validation set that the model also trains on: shared indices, exact copies, nearly exact copies."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradledger.errors import UserError
from gradledger.ledger import Entry, Metric

Rows = NDArray[np.float32]

MAX_DISTANCE = 0.1
"""Two samples nearer than this share of the usual distance between samples are copies of each other."""

_NUM_TABLES, _BITS = 12, 14
_LARGEST_CHANCE = 1 / 2000
_MAX_COLUMNS = 256
_MAX_CANDIDATES = 64
_SPARE_BITS = 6.0
_SAME_UNIT_RATIO = 10.0


@dataclass(frozen=True, slots=True)
class Leakage:
    """What a validation set shares with a training set.

    Args:
        num_samples: Samples of the validation set.
        num_shared_indices: Those whose index in one common data set the training set has too.
        num_exact: Those with an exact copy of their inputs in the training set.
        num_near: Those without an exact but with a nearly exact copy.
        num_by_chance: Those with an exact copy in data of so few distinct values that copies are to be expected;
            they are not counted in ``num_exact``.
        examples: Pairs (validation index, training index) of some copies.
    """

    num_samples: int
    num_shared_indices: int = 0
    num_exact: int = 0
    num_near: int = 0
    num_by_chance: int = 0
    examples: tuple[tuple[int, int], ...] = ()

    def entries(self, update: int = 0) -> Iterator[Entry]:
        """The numbers as ledger entries, as the rule ``val-train-leakage`` reads them."""
        for name in ("num_samples", "num_shared_indices", "num_exact", "num_near"):
            value = float(getattr(self, name))
            yield Metric(name=f"leakage/{name}", value=value, split="validation", update=update)


def find_leakage(train: Any, validation: Any, *, max_distance: float = MAX_DISTANCE) -> Leakage:
    """Look for the samples of a validation set in a training set.

    Exact copies are found by hashing each sample's bytes. Nearly exact ones (noise added, values rounded) by random
    hyperplanes over the standardised inputs, the candidates then measured; where data have few dimensions and lie
    dense, copies must be nearer. Labels play no part.

    Args:
        train: A tensor or array whose first axis counts samples, or a data set of inputs or (inputs, label) pairs.
        validation: The same.
        max_distance: Copies are at most this share of the usual distance between two samples apart.

    Raises:
        UserError: One of the two is empty, or has no length.

    Source:
        Charikar, Similarity estimation techniques from rounding algorithms (STOC 2002), for hashing by hyperplanes.

    Example:
        >>> import numpy as np
        >>> inputs = np.random.default_rng(0).normal(size=(100, 8))
        >>> found = find_leakage(inputs[:80], np.concatenate([inputs[80:], inputs[:5], inputs[5:7] + 1e-3]))
        >>> found.num_exact, found.num_near
        (5, 2)
    """
    train_samples, validation_samples = _samples(train, "training"), _samples(validation, "validation")
    exact = _exact_copies(train_samples, validation_samples)
    matrices = _matrices(train_samples, validation_samples)
    near = {}
    if matrices is not None:
        if _copies_are_chance(*matrices):
            return Leakage(len(validation_samples), _num_shared_indices(train, validation), num_by_chance=len(exact))
        near = _near_copies(*matrices, [i for i in range(len(validation_samples)) if i not in exact], max_distance)
    return Leakage(
        num_samples=len(validation_samples),
        num_shared_indices=_num_shared_indices(train, validation),
        num_exact=len(exact),
        num_near=len(near),
        examples=tuple(sorted({**exact, **near}.items())[:10]),
    )


def _samples(data: Any, what: str) -> list[NDArray[Any]]:
    """The inputs of each sample."""
    if hasattr(data, "detach"):
        data = data.detach().cpu().numpy()
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise UserError(f"the {what} set is {type(data).__name__}: give a tensor, an array or a data set with a length")
    if not len(data):
        raise UserError(f"the {what} set is empty: there is nothing to compare")
    return [_inputs(data[index]) for index in range(len(data))]


def _inputs(sample: Any) -> NDArray[Any]:
    if isinstance(sample, tuple | list) and len(sample) == 2 and hasattr(sample[0], "__len__"):
        sample = sample[0]  # a pair of inputs and label
    if hasattr(sample, "detach"):
        sample = sample.detach().cpu().numpy()
    return np.ascontiguousarray(sample)


def _exact_copies(train: Sequence[NDArray[Any]], validation: Sequence[NDArray[Any]]) -> dict[int, int]:
    """For each validation sample with an exact copy, the index of one."""
    known = {_digest(sample): index for index, sample in enumerate(train)}
    found = ((index, known.get(_digest(sample))) for index, sample in enumerate(validation))
    return {index: copy for index, copy in found if copy is not None}


def _digest(sample: NDArray[Any]) -> bytes:
    form = f"{sample.dtype.str}{sample.shape}".encode()
    return hashlib.blake2b(form + sample.tobytes(), digest_size=16).digest()


def _matrices(train: Sequence[NDArray[Any]], validation: Sequence[NDArray[Any]]) -> tuple[Rows, Rows] | None:
    """Both sets as matrices of numbers, where every sample has one shape."""
    shapes = {sample.shape for sample in (*train, *validation)}
    if len(shapes) != 1 or not np.issubdtype(train[0].dtype, np.number):
        return None
    first, second = (np.stack(part).reshape(len(part), -1).astype(np.float32) for part in (train, validation))
    return (first, second) if first.shape[1] and np.isfinite(first).all() and np.isfinite(second).all() else None


def _copies_are_chance(train: Rows, validation: Rows) -> bool:
    """The columns hold so little information that two samples may well agree in all of them."""
    bits = math.fsum(_entropy(column) for column in train.T)
    return bits < math.log2(len(train)) + math.log2(len(validation)) + _SPARE_BITS


def _entropy(column: Rows) -> float:
    """In bits, of the column's distinct values."""
    shares = np.unique(column, return_counts=True)[1] / len(column)
    return float(-(shares * np.log2(shares)).sum())


def _near_copies(train: Rows, validation: Rows, wanted: list[int], max_distance: float) -> dict[int, int]:
    """For each wanted validation sample with a nearly exact copy, the index of the nearest found."""
    generator = np.random.default_rng(0)
    train, validation = _standardised(train, validation, generator)
    if not wanted or not train.shape[1]:
        return {}
    # So near that not one validation sample in 2000 is by chance, as dense as the training samples lie.
    chance = (_LARGEST_CHANCE / len(train)) ** (1 / _effective_dimensions(train))
    max_distance = min(max_distance, chance)
    pairs = generator.integers(len(train), size=(2, 1000))
    usual = float(np.median(np.linalg.norm(train[pairs[0]] - train[pairs[1]], axis=1)))
    near: dict[int, int] = {}
    for index, candidates in _candidates(train, validation[wanted], generator).items():
        distances = np.linalg.norm(train[candidates] - validation[wanted[index]], axis=1)
        if distances.min() <= max_distance * usual:
            near[wanted[index]] = int(candidates[distances.argmin()])
    return near


def _standardised(train: Rows, validation: Rows, generator: np.random.Generator) -> tuple[Rows, Rows]:
    """Centred, in comparable units, columns that vary only; many columns are projected on fewer.

    Columns of like range, such as pixels, keep their common unit: dividing a pixel that is nearly always black by its
    tiny deviation would make noise of it.
    """
    mean, deviation, span = train.mean(axis=0), train.std(axis=0), np.ptp(train, axis=0)
    kept = deviation > 1e-6 * np.abs(train).max(axis=0)
    if kept.any() and span[kept].max() <= _SAME_UNIT_RATIO * np.median(span[kept]):
        deviation = np.full_like(deviation, deviation[kept].mean())
    train, validation = ((part[:, kept] - mean[kept]) / deviation[kept] for part in (train, validation))
    if train.shape[1] > _MAX_COLUMNS:
        projection = generator.normal(size=(train.shape[1], _MAX_COLUMNS)).astype(np.float32)
        train, validation = train @ projection, validation @ projection
    return train, validation


def _effective_dimensions(rows: Rows) -> float:
    """The participation ratio of the covariance's eigenvalues: how many directions really vary."""
    if rows.shape[1] == 1:
        return 1.0
    values = np.linalg.eigvalsh(np.cov(rows[:2000].T))
    return float(values.sum() ** 2 / (values**2).sum())


def _candidates(train: Rows, validation: Rows, generator: np.random.Generator) -> dict[int, NDArray[np.intp]]:
    """For each validation row the training rows that fall on the same side of all planes of some table."""
    found: dict[int, set[int]] = {}
    weights = 1 << np.arange(_BITS)
    for _ in range(_NUM_TABLES):
        planes = generator.normal(size=(train.shape[1], _BITS)).astype(np.float32)
        train_keys, keys = (((part @ planes) > 0) @ weights for part in (train, validation))
        order = np.argsort(train_keys, kind="stable")
        first, last = (np.searchsorted(train_keys[order], keys, side=side) for side in ("left", "right"))
        for index in np.flatnonzero(last > first):
            bucket = order[first[index] : last[index]][:_MAX_CANDIDATES]
            found.setdefault(int(index), set()).update(bucket.tolist())
    return {index: np.fromiter(rows, dtype=np.intp) for index, rows in found.items()}


def _num_shared_indices(train: Any, validation: Any) -> int:
    """How many of the validation set's indices into a common data set the training set has too."""
    train_base, train_indices = _resolved(train)
    base, indices = _resolved(validation)
    known = set(train_indices)
    return sum(index in known for index in indices) if base is train_base else 0


def _resolved(data: Any) -> tuple[Any, Sequence[int]]:
    """The data set that a subset (or a subset of a subset) is taken from, and its indices there."""
    indices: Sequence[int] | None = None
    while hasattr(data, "dataset") and hasattr(data, "indices"):
        own = [int(index) for index in data.indices]
        indices = own if indices is None else [own[index] for index in indices]
        data = data.dataset
    if indices is None:
        indices = range(len(data))
    return data, indices
