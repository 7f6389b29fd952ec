"""Datasets and loaders: how many micro-batches there are, and what one looks like."""

from __future__ import annotations

import ast
import itertools
from typing import TYPE_CHECKING, Any

from gradledger.lint.machine.iteration import unknown_batch
from gradledger.lint.machine.values import MISSING, Dataset, Function, Instance, Loader, Tensor, Unknown, Value
from gradledger.lint.torch import tensors

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]

_LONGEST_STREAM = 500


def tensor_dataset(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``TensorDataset(x, y)``."""
    given = tuple(tensors.as_tensor(arg) for arg in args)
    rows = given[0].rows if given else None
    return Dataset(rows, lambda index: tuple(tensors.sliced(t, 0) for t in given), given)


def subset(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``Subset(dataset, indices)``."""
    base, indices = args[0], args[1] if len(args) > 1 else None
    length = len(indices) if isinstance(indices, list | tuple | range) else None
    return Dataset(length, _item_of(machine, base, node))


def concatenated(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``ConcatDataset(datasets)``."""
    parts = args[0] if args and isinstance(args[0], list | tuple) else []
    lengths = [length_of(machine, part, node) for part in parts]
    known = [length for length in lengths if length is not None]
    total = sum(known) if parts and len(known) == len(lengths) else None
    return Dataset(total, _item_of(machine, parts[0] if parts else None, node))


def random_split(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``random_split(dataset, lengths)``."""
    base, lengths = args[0], args[1] if len(args) > 1 else kwargs.get("lengths", [])
    total = length_of(machine, base, node)
    parts = []
    for length in lengths if isinstance(lengths, list | tuple) else [None, None]:
        if isinstance(length, float):
            length = None if total is None else round(total * length)
        parts.append(Dataset(length if isinstance(length, int) else None, _item_of(machine, base, node)))
    return parts


def batch_sampler(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``BatchSampler``: how long it is stays unknown."""
    return Unknown("batch_sampler")


def length_of(machine: Machine, dataset: Value, node: ast.AST) -> int | None:
    """Samples in a dataset."""
    if isinstance(dataset, Dataset):
        return dataset.length
    if isinstance(dataset, list | tuple | range):
        return len(dataset)
    if isinstance(dataset, Tensor):
        return dataset.rows
    if isinstance(dataset, Instance):
        method = dataset.cls.lookup("__len__")
        if isinstance(method, Function):
            length = machine.call(method, [dataset], {}, node)
            return length if isinstance(length, int) else None
    return None


def _item_of(machine: Machine, dataset: Value, node: ast.AST) -> Any:
    def item(index: int) -> Value:
        if isinstance(dataset, Dataset):
            return dataset.item(index)
        if isinstance(dataset, list | tuple | range):
            return dataset[index] if index < len(dataset) else Unknown("item")
        if isinstance(dataset, Tensor):
            return tensors.sliced(dataset, 0)
        if isinstance(dataset, Instance):
            get = dataset.cls.lookup("__getitem__")
            if get is not MISSING:
                return machine.call(get, [dataset, index], {}, node)
        return unknown_batch()

    return item


def loader(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``DataLoader(dataset, batch_size=…)``."""
    dataset = args[0] if args else kwargs.get("dataset")
    batch_size = tensors.number_or(kwargs.get("batch_size", args[1] if len(args) > 1 else 1))
    samples = length_of(machine, dataset, node)
    collate = kwargs.get("collate_fn")
    if kwargs.get("batch_sampler") is not None:
        batches = kwargs["batch_sampler"]
        if isinstance(batches, list):
            return _loader_of_lists(machine, dataset, batches, collate, node)
        return Loader(None, lambda index: unknown_batch(), dataset=dataset)
    if batch_size is None:
        return Loader(samples, _item_of(machine, dataset, node), dataset=dataset)
    if not isinstance(batch_size, int) or batch_size < 1:
        return Loader(None, lambda index: unknown_batch(), dataset=dataset)
    if samples is None and isinstance(dataset, Instance) and dataset.cls.lookup("__iter__") is not MISSING:
        return _loader_of_stream(machine, dataset, batch_size, node)
    drop_last = kwargs.get("drop_last") is True
    length = None if samples is None else samples // batch_size if drop_last else -(-samples // batch_size)
    item = _item_of(machine, dataset, node)

    def make(index: int) -> Value:
        first = index * batch_size
        count = batch_size if samples is None else max(1, min(batch_size, samples - first))
        if isinstance(dataset, Unknown) or dataset is None:
            return unknown_batch()
        if isinstance(collate, Function):
            return machine.call(collate, [[item(first + i) for i in range(min(count, 64))]], {}, node)
        return _batched(item(first), count)

    return Loader(length, make, dataset=dataset, batch_size=batch_size)


def _loader_of_stream(machine: Machine, dataset: Instance, batch_size: int, node: ast.AST) -> Loader:
    """A loader over an iterable dataset: its length is not known to the program, and here only if it ends soon."""
    items = list(itertools.islice(machine.iterate(dataset, node), _LONGEST_STREAM))
    if len(items) == _LONGEST_STREAM or not items:
        return Loader(None, lambda index: unknown_batch(), dataset=dataset, batch_size=batch_size)
    sizes = [min(batch_size, len(items) - start) for start in range(0, len(items), batch_size)]
    return Loader(len(sizes), lambda i: _batched(items[i * batch_size], sizes[i]), dataset=dataset)


def _loader_of_lists(machine: Machine, dataset: Value, batches: list[Value], collate: Value, node: ast.AST) -> Value:
    item = _item_of(machine, dataset, node)

    def make(index: int) -> Value:
        chosen = batches[index]
        indices = [i for i in chosen if isinstance(i, int)] if isinstance(chosen, list | tuple | range) else [0]
        if isinstance(collate, Function):
            return machine.call(collate, [[item(i) for i in indices]], {}, node)
        return _batched(item(indices[0] if indices else 0), len(indices))

    return Loader(len(batches), make, dataset=dataset)


def _batched(item: Value, count: int) -> Value:
    """What the default collation makes of ``count`` items like this one."""
    if isinstance(item, tuple | list):
        return [_batched(part, count) for part in item]
    if isinstance(item, dict):
        return {key: _batched(part, count) for key, part in item.items()}
    if isinstance(item, Tensor):
        return item if item.is_batch else item.like(shape=None if item.shape is None else (count, *item.shape))
    if isinstance(item, int | float | bool):
        return Tensor((count,))
    if isinstance(item, Unknown):
        return Tensor((count,), is_batch=True, weight=float(count))
    return [item] * min(count, 64)
