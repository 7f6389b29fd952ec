"""Context managers: ``with …``."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from gradledger.lint.machine.machine import Raised
from gradledger.lint.machine.threads import GeneratorThread
from gradledger.lint.machine.values import MISSING, Context, Instance, Value

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine


def enter(machine: Machine, manager: Value, node: ast.AST) -> Value:
    """What ``with manager as value`` binds."""
    if isinstance(manager, Context):
        return manager.enter() if manager.enter is not None else manager
    if isinstance(manager, Instance):
        method = manager.cls.lookup("__enter__")
        return manager if method is MISSING else machine.call(method, [manager], {}, node)
    if isinstance(manager, GeneratorThread):
        return next(manager, None)
    return manager


def leave(machine: Machine, manager: Value, error: str | None, node: ast.AST) -> bool:
    """The end of a ``with`` block; True where the manager swallows the exception."""
    if isinstance(manager, Context):
        if manager.leave is not None:
            manager.leave()
        return manager.kind == "suppress" and error is not None
    if isinstance(manager, Instance):
        method = manager.cls.lookup("__exit__")
        if method is not MISSING:
            result = machine.call(method, [manager, error, error, None], {}, node)
            return result is True
    if isinstance(manager, GeneratorThread):
        if error is not None:
            manager.close()
            return False
        try:
            next(manager, None)
        except Raised:
            raise
    return False


def no_grad(machine: Machine) -> Context:
    """``torch.no_grad()``."""

    def start() -> None:
        machine.no_grad += 1

    def stop() -> None:
        machine.no_grad -= 1

    return Context("no_grad", start, stop)


def enable_grad(machine: Machine) -> Context:
    """``torch.enable_grad()``."""
    kept: list[int] = []

    def start() -> None:
        kept.append(machine.no_grad)
        machine.no_grad = 0

    def stop() -> None:
        machine.no_grad = kept.pop()

    return Context("enable_grad", start, stop)


def no_sync(machine: Machine) -> Context:
    """``model.no_sync()``."""

    def start() -> None:
        machine.no_sync += 1

    def stop() -> None:
        machine.no_sync -= 1

    return Context("no_sync", start, stop)


def exit_stack(machine: Machine) -> Context:
    """``contextlib.ExitStack()``."""
    stack = Context("exit_stack")
    entered: list[Value] = []
    machine.stacks[id(stack)] = entered

    def stop() -> None:
        while entered:
            leave(machine, entered.pop(), None, ast.Pass())

    stack.enter = lambda: stack
    stack.leave = stop
    return stack
