"""Python's own functions, and the parts of the standard library that training scripts lean on."""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gradledger.lint.machine import numbers, readings
from gradledger.lint.machine.iteration import LIST_LIKE, Numbered, loader_of, next_of, sized
from gradledger.lint.machine.machine import EndOfProgram, Raised
from gradledger.lint.machine.values import (
    MISSING,
    Dataset,
    External,
    Instance,
    Loader,
    Module,
    Native,
    Tensor,
    Unknown,
    Value,
)
from gradledger.lint.machine.values import Iterator as LazyIterator
from gradledger.lint.python.introspection import INTROSPECTION
from gradledger.lint.torch import tensors

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]

_NUMERIC = (int, float)
_LONGEST = 20_000


def _range(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    given = [tensors.number_or(arg) for arg in args]
    bounds = [int(a) if isinstance(a, float) else a for a in given]
    if any(not isinstance(bound, int) for bound in bounds):
        stop = bounds[-1] if len(bounds) == 1 else bounds[1] if len(bounds) > 1 else None
        if isinstance(stop, Unknown):
            start = bounds[0] if len(bounds) > 1 and isinstance(bounds[0], int) else 0
            return range(start, start + _assumed_range(machine, stop))
        return range(2)
    try:
        return range(*bounds)
    except (TypeError, ValueError):
        return range(0)


def _assumed_range(machine: Machine, stop: Unknown) -> int:
    if "epoch" in stop.hint:
        return numbers.ASSUMED_EPOCHS
    if any(word in stop.hint for word in ("step", "iter", "batch", "loader", "len", "update")):
        return 2 * machine.window + 1
    return numbers.ASSUMED_EPOCHS


def length_of(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``len(x)``."""
    value = args[0] if args else None
    if isinstance(value, Loader):
        return 2 * machine.window + 1 if value.length is None else value.length
    if isinstance(value, Tensor):
        if value.shape is None:
            return int(value.weight) if value.is_batch and value.weight else Unknown("len", True)
        return Unknown("len", True) if value.rows is None else value.rows
    if isinstance(value, Dataset):
        return Unknown("len(dataset)") if value.length is None else value.length
    if isinstance(value, str | list | tuple | dict | set | frozenset | range | bytes):
        return len(value)
    if isinstance(value, Instance):
        method = value.cls.lookup("__len__")
        return Unknown("len") if method is MISSING else machine.call(method, [value], {}, node)
    if isinstance(value, Module):
        return len(value.children)
    if isinstance(value, Numbered):
        return sized(value)
    if isinstance(value, External):
        value = Unknown(value.name)
    if isinstance(value, Unknown):
        if any(word in value.hint for word in ("load", "dl", "iter")):
            return 2 * machine.window + 1
        return Unknown(f"len({value.path})", value.varying)
    return Unknown("len")


def _enumerate(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return Numbered(args[0], kwargs.get("start", args[1] if len(args) > 1 else 0))


def _zip(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return zip(*(machine.iterate(arg, node) for arg in args), strict=False)


def make_iterator(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``iter(x)``."""
    value = args[0]
    if isinstance(value, External):
        value = Unknown(value.name)
    if isinstance(value, Unknown):
        value = loader_of(value)
    if isinstance(value, LazyIterator | Iterator):
        return value
    if isinstance(value, Instance) and value.cls.lookup("__next__") is not MISSING:
        method = value.cls.lookup("__iter__")
        return value if method is MISSING else machine.call(method, [value], {}, node)
    return LazyIterator(value)


def _next(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    source = args[0]
    try:
        if isinstance(source, LazyIterator):
            return next_of(machine, source, node)
        if isinstance(source, Iterator):
            return next(source)
        if isinstance(source, Loader):
            return source.make(0)
        if isinstance(source, Instance) and source.cls.lookup("__next__") is not MISSING:
            return machine.call(source.cls.lookup("__next__"), [source], {}, node)
    except StopIteration:
        if len(args) > 1:
            return args[1]
        raise Raised("StopIteration") from None
    except Raised as error:
        if len(args) > 1 and error.name == "StopIteration":
            return args[1]
        raise
    if isinstance(source, Unknown):
        return loader_of(source).make(0)
    return Unknown("next", True)


def _list(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    if not args:
        return []
    if isinstance(args[0], Loader) and args[0].length is None:
        return Loader(None, args[0].make, dataset=LIST_LIKE)
    return list(itertools.islice(machine.iterate(args[0], node), _LONGEST))


def _tuple(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return tuple(_list(machine, args, kwargs, node))


def _set(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    from gradledger.lint.machine.expressions import set_of

    return set_of(_list(machine, args, kwargs, node))


def make_dict(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``dict(…)``."""
    result: dict[Any, Value] = {}
    if args and isinstance(args[0], dict):
        result.update(args[0])
    elif args and not isinstance(args[0], Unknown):
        for pair in machine.iterate(args[0], node):
            if isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str | int | float | bool):
                result[pair[0]] = pair[1]
    result.update(kwargs)
    return result


def _float(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    value = args[0] if args else 0.0
    if isinstance(value, Tensor):
        return readings.read(machine, value, node)
    if isinstance(value, str | int | float):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return Unknown()
    return value


def _int(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    value = tensors.number_or(args[0]) if args else 0
    if isinstance(value, str | int | float):
        try:
            return int(value)
        except (ValueError, OverflowError):
            return Unknown()
    return Unknown("number", True) if isinstance(value, Tensor) else value


def _sum(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    from gradledger.lint.machine.operators import binary

    total: Value = args[1] if len(args) > 1 else 0
    if isinstance(args[0], Tensor) and args[0].shape is None:
        return args[0]
    for element in machine.iterate(args[0], node):
        machine.tick()
        total = element if total == 0 and isinstance(total, int) else binary(machine, ast.Add(), total, element, node)
    return total


def _extreme(pick: Callable[..., Any]) -> Callable[..., Value]:
    def call(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
        values = list(machine.iterate(args[0], node)) if len(args) == 1 else args
        numeric = [tensors.number_or(value) for value in values]
        if numeric and all(isinstance(value, int | float | str) for value in numeric) and "key" not in kwargs:
            try:
                return pick(numeric)
            except TypeError:
                return Unknown()
        return values[0] if "key" in kwargs and values else Unknown("extreme", True)

    return call


def _numeric(function: Callable[..., Any]) -> Callable[..., Value]:
    def call(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
        given = [tensors.number_or(arg) for arg in args]
        if all(isinstance(arg, int | float) for arg in given):
            try:
                return function(*given)
            except (ValueError, OverflowError, TypeError, ZeroDivisionError):
                return Unknown()
        reading = readings.reading_of(given[0]) if given and function is round else None
        varying = any(isinstance(arg, Tensor) or (isinstance(arg, Unknown) and arg.varying) for arg in args)
        return Unknown(f"{getattr(function, '__name__', 'f')}(…)", varying, reading=reading)

    return call


def _quantified(stop_at: bool) -> Callable[..., Value]:
    def call(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
        for element in machine.iterate(args[0], node):
            machine.tick()
            if machine.truth(element, node) == stop_at:
                return stop_at
        return not stop_at

    return call


def _reversed(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return list(itertools.islice(machine.iterate(args[0], node), _LONGEST))[::-1]


def _sorted(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    elements = list(itertools.islice(machine.iterate(args[0], node), _LONGEST))
    key = kwargs.get("key")
    keys = elements if key is None else [machine.call(key, [element], {}, node) for element in elements]
    if not all(isinstance(one, int | float) for one in keys) and not all(isinstance(one, str) for one in keys):
        return elements
    order = sorted(range(len(keys)), key=keys.__getitem__, reverse=kwargs.get("reverse") is True)
    return [elements[index] for index in order]


def _map(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    sources = [machine.iterate(arg, node) for arg in args[1:]]
    return (machine.call(args[0], list(given), {}, node) for given in zip(*sources, strict=False))


def _filter(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    keep = args[0]
    return (
        element
        for element in machine.iterate(args[1], node)
        if machine.truth(element if keep is None else machine.call(keep, [element], {}, node), node)
    )


def _print(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    for arg in args:
        readings.show(machine, arg)
    return None


def end_program(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``sys.exit()``."""
    raise EndOfProgram


def _str(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    value = args[0] if args else ""
    return str(value) if isinstance(value, str | int | float) else Unknown("str")


def _bool(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    value = args[0] if args else False
    return value if isinstance(value, Unknown) else machine.truth(value, node)


def _nothing(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return None


BUILTINS: dict[str, Value] = {
    name: Native(function, name)
    for name, function in {
        "range": _range, "len": length_of, "enumerate": _enumerate, "zip": _zip, "iter": make_iterator, "next": _next,
        "list": _list, "tuple": _tuple, "set": _set, "frozenset": _set, "dict": make_dict, "float": _float, "int": _int,
        "str": _str, "bool": _bool, "sum": _sum, "min": _extreme(min), "max": _extreme(max), "abs": _numeric(abs),
        "round": _numeric(round), "pow": _numeric(pow), "divmod": _numeric(divmod), "any": _quantified(True),
        "all": _quantified(False), "issubclass": _nothing, 
        "reversed": _reversed, "sorted": _sorted, "map": _map,
        "filter": _filter, "print": _print, "exit": end_program, "quit": end_program, 
        "repr": _str, "open": _nothing, "vars": _nothing, 
    }.items()
}  # fmt: skip
BUILTINS |= {name: Native(function, name) for name, function in INTROSPECTION.items()}
BUILTINS |= {name: External(name) for name in ("property", "staticmethod", "classmethod", "object", "super")}
BUILTINS |= {
    name: External(name)
    for name in (
        "Exception", "ValueError", "RuntimeError", "StopIteration", "KeyError", "TypeError", "NotImplementedError",
        "KeyboardInterrupt", "ImportError", "AttributeError", "FileNotFoundError", "OSError", "NotImplemented",
    )
}  # fmt: skip
BUILTINS |= {"__name__": "__main__", "__file__": "script.py", "__debug__": True, "Ellipsis": ...}


def math_function(name: str) -> Callable[..., Value] | None:
    """``math.name`` on known numbers."""
    function = getattr(math, name, None)
    if name in ("isfinite", "isnan", "isinf"):
        return lambda machine, args, kwargs, node: name == "isfinite"
    return _numeric(function) if callable(function) else None
