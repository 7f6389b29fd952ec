"""Methods of loaders, context managers, numbers, text, lists and dicts."""

from __future__ import annotations

import ast
import itertools
from typing import TYPE_CHECKING

from gradledger.lint.machine import contexts, readings
from gradledger.lint.machine.iteration import Numbered
from gradledger.lint.machine.machine import Raised
from gradledger.lint.machine.values import Context, Loader, Unknown, Value
from gradledger.lint.machine.values import Iterator as LazyIterator
from gradledger.lint.python.builtins import length_of

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]
_LONGEST = 20_000


def loader_method(machine: Machine, loader: Loader, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``loader.name(…)``."""
    if name in ("set_postfix", "set_description", "update", "set_postfix_str", "close", "refresh", "write"):
        for value in [*args, *kwargs.values()]:
            show_all(machine, value)
        return None
    if name == "__iter__":
        return LazyIterator(loader)
    if name == "__len__":
        return length_of(machine, [loader], {}, node)
    return Unknown(f"loader.{name}()")


def show_all(machine: Machine, value: Value) -> None:
    """Every number in a value reaches a log."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else [value]
    for part in parts:
        readings.show(machine, part)


def context_method(machine: Machine, context: Context, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """Methods of context managers: only an exit stack's matter."""
    if name == "enter_context" and args:
        machine.stacks.setdefault(id(context), []).append(args[0])
        return contexts.enter(machine, args[0], node)
    if name == "__enter__":
        return contexts.enter(machine, context, node)
    if name in ("__exit__", "close"):
        contexts.leave(machine, context, None, node)
    return None


_LIST_METHODS = frozenset(["append", "extend", "insert", "pop", "clear", "copy", "reverse", "index", "count", "remove"])
_DICT_METHODS = frozenset(["get", "items", "keys", "values", "pop", "update", "setdefault", "copy", "clear"])


def native_method(machine: Machine, receiver: Value, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """Methods of numbers, text, lists and dicts, done for real."""
    if isinstance(receiver, list) and name == "append" and args:
        show_all(machine, args[0])
    if isinstance(receiver, list) and name == "extend" and args:
        receiver.extend(itertools.islice(machine.iterate(args[0], node), _LONGEST))
        return None
    if isinstance(receiver, dict) and name == "get" and args and args[0] not in receiver and len(args) < 2:
        return None
    if isinstance(receiver, Numbered | LazyIterator) or receiver is None:
        return Unknown(f"{name}()")
    allowed = isinstance(receiver, str | int | float | set | tuple | range | bytes)
    allowed |= isinstance(receiver, list) and name in _LIST_METHODS
    allowed |= isinstance(receiver, dict) and name in _DICT_METHODS
    if allowed and not name.startswith("__") and (not isinstance(receiver, str) or _all_native(args, kwargs)):
        try:
            result = getattr(receiver, name)(*args, **kwargs)
        except IndexError:
            raise Raised("IndexError") from None
        except KeyError:
            raise Raised("KeyError") from None
        except Exception:
            return Unknown(f"{name}()")
        return list(result) if isinstance(result, type({}.keys()) | type({}.values()) | type({}.items())) else result
    return Unknown(f"{name}()")


def _all_native(args: Args, kwargs: Kwargs) -> bool:
    return all(isinstance(arg, str | int | float | list | tuple) for arg in [*args, *kwargs.values()])
