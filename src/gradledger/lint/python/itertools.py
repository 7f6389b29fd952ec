"""The iterators of the standard library."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradledger.lint.machine.values import Iterator as LazyIterator
from gradledger.lint.machine.values import (
    Value,
)
from gradledger.lint.python.builtins import make_iterator
from gradledger.lint.torch import tensors

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]


def islice(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``itertools.islice``."""
    bounds = [tensors.number_or(arg) for arg in args[1:]]
    if any(not isinstance(bound, int | type(None)) for bound in bounds):
        bounds = [machine.window]
    source = args[0]
    if not isinstance(source, LazyIterator) and not isinstance(source, Iterator):
        source = make_iterator(machine, [source], {}, node)
    return itertools.islice(machine.iterate(source, node), *bounds)


def cycle(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``itertools.cycle``: the first pass is kept."""
    return itertools.cycle(machine.iterate(args[0], node))


def chain(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``itertools.chain``."""
    return itertools.chain(*(machine.iterate(arg, node) for arg in args))


def chain_from_iterable(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``itertools.chain.from_iterable``."""
    return itertools.chain.from_iterable(machine.iterate(part, node) for part in machine.iterate(args[0], node))


def batched(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``itertools.batched``."""
    source, size = machine.iterate(args[0], node), args[1] if len(args) > 1 else 1
    size = size if isinstance(size, int) and size > 0 else machine.window
    return iter(lambda: tuple(itertools.islice(source, size)), ())


def count(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``itertools.count``."""
    start = kwargs.get("start", args[0] if args else 0)
    return itertools.count(start if isinstance(start, int) else 0)
