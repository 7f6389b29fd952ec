"""What iterating over a value gives."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator as PyIterator
from typing import TYPE_CHECKING, Any

from gradledger.ledger import EpochEnd, EpochStart
from gradledger.lint.machine import numbers
from gradledger.lint.machine.machine import Raised
from gradledger.lint.machine.values import (
    MISSING,
    Bag,
    Dataset,
    External,
    Instance,
    Iterator,
    Leaf,
    Loader,
    Module,
    Tensor,
    Unknown,
    Value,
)

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

_LOADER = re.compile(
    r"load|dl$|data|^train(ing)?(_\w)?$|batch|iter|set$|queue|stream|chunks|samples|pbar|prog|tqdm|bar$", re.I
)
_PARTS = re.compile(r"optim|(^|_)opts?$|sched|param|models?$|nets?$|scalers?$|callback|hook|groups?$", re.I)
"""Names of collections that hold the training's own parts, never its data."""
_ELEMENTS_OF_UNKNOWN = 1


def sized(value: Value) -> int | None:
    """How many elements a value has, where that is known without iterating."""
    if isinstance(value, Loader):
        return None if value.length is None or value.endless else value.length
    if isinstance(value, range | list | tuple):
        return len(value)
    if isinstance(value, Numbered):
        return sized(value.source)
    if isinstance(value, Tensor):
        return value.rows
    return None


def is_loader(value: Value) -> bool:
    """Does iterating it go through a loader?"""
    if isinstance(value, Numbered):
        return is_loader(value.source)
    return isinstance(value, Loader | Unknown | External)


class Numbered:
    """``enumerate(x, start)``."""

    def __init__(self, source: Value, start: Any) -> None:
        self.source = source
        self.start = start if isinstance(start, int) else 0


def element_of(machine: Machine, value: Value, index: int, node: ast.AST) -> Value:
    """The element at a position of a sized value."""
    if isinstance(value, Numbered):
        return (value.start + index, element_of(machine, value.source, index, node))
    if isinstance(value, Loader):
        return value.make(index)
    if isinstance(value, Tensor):
        return value.like(shape=value.shape[1:] if value.shape else None)
    return value[index]


def iterate(machine: Machine, value: Value, node: ast.AST) -> PyIterator[Value]:
    """The elements of anything, one at a time."""
    if isinstance(value, Loader):
        return _pass_over(machine, value, node)
    if isinstance(value, Numbered):
        return ((value.start + i, element) for i, element in enumerate(iterate(machine, value.source, node)))
    if isinstance(value, Tensor):
        return _rows_of(machine, value)
    if isinstance(value, dict):
        return iter(list(value))
    if isinstance(value, list | tuple | range | set | frozenset | str | bytes | PyIterator):
        return iter(value)
    if isinstance(value, Iterator):
        return _rest_of(machine, value, node)
    if isinstance(value, Dataset):
        return (value.item(index) for index in range(_length(machine, value.length)))
    if isinstance(value, Instance):
        return _iterate_instance(machine, value, node)
    if isinstance(value, Module):
        return iter(list(value.attributes) if value.kind == "ModuleDict" else value.children)
    if isinstance(value, Leaf):
        return (Tensor(leaves=frozenset({value})) for _ in range(4))
    if isinstance(value, Bag) and value.kind == "gradledger.ExactWindows":
        from gradledger.lint.frameworks import adapters

        return adapters.iterate(machine, value, node)
    if isinstance(value, Bag):
        return iter([])
    if isinstance(value, External):
        value = Unknown(value.name)
    if isinstance(value, Unknown):
        return _iterate_unknown(machine, value, node)
    return iter([])


def _length(machine: Machine, length: int | None) -> int:
    if length is None:
        machine.assumed_length = True
        return machine.whole_windows or 2 * machine.window + 1
    return length


def _pass_over(machine: Machine, loader: Loader, node: ast.AST) -> PyIterator[Value]:
    if loader.dataset is LIST_LIKE:
        for index in range(_length(machine, loader.length)):
            yield loader.make(index)
        return
    machine.record(EpochStart, node, num_micro_batches=loader.length)
    index = 0
    machine.passes.append(loader)
    while loader.endless or index < _length(machine, loader.length):
        loader.state = (index, _length(machine, loader.length))
        yield loader.make(index)
        index += 1
    machine.passes.remove(loader)
    machine.record(EpochEnd, node)


LIST_LIKE = object()
"""Marks a loader that is no DataLoader: iterating it is not an epoch."""


def _rows_of(machine: Machine, tensor: Tensor) -> PyIterator[Value]:
    rows = tensor.rows
    if rows is None:
        rows = 4
    inner = tensor.shape[1:] if tensor.shape else None
    for _ in range(rows):
        yield tensor.like(shape=inner)


def _rest_of(machine: Machine, iterator: Iterator, node: ast.AST) -> PyIterator[Value]:
    while True:
        try:
            yield next_of(machine, iterator, node)
        except Raised:
            return


def next_of(machine: Machine, iterator: Iterator, node: ast.AST) -> Value:
    """``next(iterator)``."""
    if iterator.source is None:
        iterator.source = iterate(machine, iterator.loader, node)
    try:
        return next(iterator.source)
    except StopIteration:
        raise Raised("StopIteration") from None


def _iterate_instance(machine: Machine, value: Instance, node: ast.AST) -> PyIterator[Value]:
    method = value.cls.lookup("__iter__")
    if method is not MISSING:
        return iterate(machine, machine.call(method, [value], {}, node), node)
    get, length = value.cls.lookup("__getitem__"), value.cls.lookup("__len__")
    if get is not MISSING and length is not MISSING:
        size = machine.call(length, [value], {}, node)
        return (machine.call(get, [value, index], {}, node) for index in range(size if isinstance(size, int) else 4))
    if value.cls.lookup("__next__") is not MISSING:
        return _call_next(machine, value, node)
    elements = value.attributes.get("__children__")
    return iter(elements if isinstance(elements, list) else [])


def _call_next(machine: Machine, value: Instance, node: ast.AST) -> PyIterator[Value]:
    method = value.cls.lookup("__next__")
    while True:
        try:
            yield machine.call(method, [value], {}, node)
        except Raised as error:
            if error.name.startswith("StopIteration"):
                return
            raise


def _iterate_unknown(machine: Machine, value: Unknown, node: ast.AST) -> PyIterator[Value]:
    if _PARTS.search(value.hint):
        return iter([_first_of_unknown(value)])
    works = isinstance(node, ast.For | ast.AsyncFor) and machine.relevance.touches_gradients(node)
    if works or (_LOADER.search(value.hint) and not value.varying):
        return iterate(machine, loader_of(value), node)
    return iter([_first_of_unknown(value)] * _ELEMENTS_OF_UNKNOWN)


def _first_of_unknown(value: Unknown) -> Value:
    """The same object in each loop over it, and at index 0: one loop may zero an optimizer that another one steps."""
    known = value.attributes.get("item0")
    if known is None:
        known = Unknown(f"{value.path}[]", True, value.leaves)
        value.attributes["item0"] = known
    return known


def loader_of(value: Unknown) -> Loader:
    """The loader that an unknown value is taken for."""
    if not isinstance(value.role, Loader):
        value.role = Loader(None, lambda index: unknown_batch(), sized=True, dataset=value)
    return value.role


def unknown_batch() -> Tensor:
    """A micro-batch of which nothing is known."""
    return Tensor(is_batch=True, assumed=True, weight=float(numbers.ASSUMED_BATCH_SIZE))
