"""Exceptions of the interpreted program: who raises, who catches."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from gradledger.lint.machine.machine import GaveUpError, Raised
from gradledger.lint.machine.scope import Scope
from gradledger.lint.machine.values import Unknown

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine


def run_raise(machine: Machine, node: ast.Raise, scope: Scope) -> None:
    """``raise …``."""
    name = "Exception" if node.exc is None else ast.unparse(node.exc).partition("(")[0]
    if name in _MISTAKES and not any(_catches(handled, name) for handled in machine.handlers):
        return  # a guard against a mistake: that it strikes comes from something assumed here, not from the program
    raise Raised(name)


_MISTAKES = frozenset(
    {
        "ValueError", "RuntimeError", "TypeError", "NotImplementedError", "AssertionError", "Exception", "ImportError",
        "AttributeError", "KeyError", "FileNotFoundError", "OSError", "EnvironmentError", "ModuleNotFoundError",
    }
)  # fmt: skip


_GENERAL = frozenset({"Exception", "BaseException"})


def run_try(machine: Machine, node: ast.Try, scope: Scope) -> None:
    """``try: … except …: … else: … finally: …``."""
    handled = [_handled(handler) for handler in node.handlers]
    num_outer = len(machine.handlers)
    try:
        try:
            machine.handlers += handled
            machine.execute(node.body, scope)
        except Raised as error:
            del machine.handlers[num_outer:]
            handler = next(
                (one for one, names in zip(node.handlers, handled, strict=True) if _catches(names, error.name)), None
            )
            if handler is None:
                raise
            if handler.name:
                scope.set(handler.name, Unknown(error.name))
            machine.execute(handler.body, scope)
        else:
            del machine.handlers[num_outer:]
            machine.execute(node.orelse, scope)
    except GaveUpError:
        raise
    except BaseException:
        del machine.handlers[num_outer:]
        machine.execute(node.finalbody, scope)
        raise
    machine.execute(node.finalbody, scope)


def _handled(handler: ast.ExceptHandler) -> frozenset[str] | None:
    """The exceptions that a handler catches; None: all."""
    if handler.type is None:
        return None
    return frozenset(part.rpartition(".")[2] for part in ast.unparse(handler.type).strip("()").split(", "))


def _catches(handled: frozenset[str] | None, name: str) -> bool:
    return handled is None or name.rpartition(".")[2] in handled or bool(handled & _GENERAL)
