"""Statements: what each kind of node does."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradledger.lint.machine.assignment import assign, augmented
from gradledger.lint.machine.contexts import enter, leave
from gradledger.lint.machine.exceptions import run_raise, run_try
from gradledger.lint.machine.expressions import default_values
from gradledger.lint.machine.loops import run_for, run_while
from gradledger.lint.machine.machine import BreakLoop, ContinueLoop, EndOfProgram, GaveUpError, Raised, ReturnValue
from gradledger.lint.machine.patterns import run_match
from gradledger.lint.machine.scope import Scope
from gradledger.lint.machine.values import Class, External, Function, Unknown, Value

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine


def _expression(machine: Machine, node: ast.Expr, scope: Scope) -> None:
    machine.evaluate(node.value, scope)


def _assign(machine: Machine, node: ast.Assign, scope: Scope) -> None:
    value = machine.evaluate(node.value, scope)
    for target in node.targets:
        assign(machine, target, value, scope)


def _annotated(machine: Machine, node: ast.AnnAssign, scope: Scope) -> None:
    if node.value is not None:
        assign(machine, node.target, machine.evaluate(node.value, scope), scope)
    elif scope.is_class and isinstance(node.target, ast.Name):
        scope.names.setdefault("__annotations__", {})[node.target.id] = None


def _delete(machine: Machine, node: ast.Delete, scope: Scope) -> None:
    for target in node.targets:
        if isinstance(target, ast.Name):
            scope.outer.get(target.id, scope).names.pop(target.id, None)
        elif isinstance(target, ast.Subscript):
            base = machine.evaluate(target.value, scope)
            key = machine.evaluate(target.slice, scope)
            if isinstance(base, dict | list):
                try:
                    del base[key]
                except (KeyError, IndexError, TypeError):
                    continue


def _if(machine: Machine, node: ast.If, scope: Scope) -> None:
    before = machine.moduli
    machine.moduli = set()
    value = machine.evaluate(node.test, scope)
    if machine.relevance.matters(node):
        before |= machine.moduli
    machine.moduli = before
    machine.execute(node.body if machine.truth(value, node.test, branch=node) else node.orelse, scope)


def _for(machine: Machine, node: ast.For | ast.AsyncFor, scope: Scope) -> None:
    run_for(machine, node, scope, assign)


def _while(machine: Machine, node: ast.While, scope: Scope) -> None:
    run_while(machine, node, scope)


def _with(machine: Machine, node: ast.With | ast.AsyncWith, scope: Scope) -> None:
    entered: list[Value] = []
    try:
        for item in node.items:
            manager = machine.evaluate(item.context_expr, scope)
            value = enter(machine, manager, item.context_expr)
            entered.append(manager)
            if item.optional_vars is not None:
                assign(machine, item.optional_vars, value, scope)
        machine.execute(node.body, scope)
    except (GaveUpError, EndOfProgram):
        raise
    except Raised as error:
        suppressed = False
        while entered:
            suppressed = leave(machine, entered.pop(), error.name, node) or suppressed
        if not suppressed:
            raise
    finally:
        while entered:
            leave(machine, entered.pop(), None, node)


def _function(machine: Machine, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope) -> None:
    function: Value = Function(node, scope, defaults=default_values(machine, node.args, scope))
    for decorator in reversed(node.decorator_list):
        function = _decorated(machine, machine.evaluate(decorator, scope), function, node)
    scope.set(node.name, function)


_KEPT_DECORATORS = {
    "property",
    "staticmethod",
    "classmethod",
    "contextmanager",
    "no_grad",
    "inference_mode",
    "cached_property",
}


def _decorated(machine: Machine, decorator: Value, function: Value, node: ast.AST) -> Value:
    from gradledger.lint.machine.classes import marker_of

    mark = marker_of(decorator)
    if isinstance(function, Function):
        if mark is not None:
            function.wrappers = (*function.wrappers, mark)
            return function
        if isinstance(decorator, Function):
            result = machine.call(decorator, [function], {}, node)
            return function if isinstance(result, Unknown) else result
    return function


def _class(machine: Machine, node: ast.ClassDef, scope: Scope) -> None:
    bases = [machine.evaluate(base, scope) for base in node.bases]
    body = Scope(scope, is_class=True)
    machine.execute(node.body, body)
    made = Class(node.name, node, bases, body.names, scope)
    for member in body.names.values():
        if isinstance(member, Function) and member.owner is None:
            member.owner = made
    for decorator in node.decorator_list:
        value = machine.evaluate(decorator, scope)
        if isinstance(value, External | Unknown) or callable(getattr(value, "call", None)):
            continue
    scope.set(node.name, made)


def _return(machine: Machine, node: ast.Return, scope: Scope) -> None:
    raise ReturnValue(None if node.value is None else machine.evaluate(node.value, scope))


def _import(machine: Machine, node: ast.Import, scope: Scope) -> None:
    for alias in node.names:
        if alias.asname:
            scope.set(alias.asname, External(alias.name))
        else:
            top = alias.name.partition(".")[0]
            scope.set(top, External(top))


def _import_from(machine: Machine, node: ast.ImportFrom, scope: Scope) -> None:
    from gradledger.lint.python.builtins import BUILTINS

    module = "." * node.level + (node.module or "")
    for alias in node.names:
        name = alias.asname or alias.name
        if module in ("__future__", "typing", "builtins") and alias.name in BUILTINS:
            continue
        scope.set(name, External(f"{module}.{alias.name}"))


def _global(machine: Machine, node: ast.Global, scope: Scope) -> None:
    for name in node.names:
        scope.outer[name] = scope.module()


def _nonlocal(machine: Machine, node: ast.Nonlocal, scope: Scope) -> None:
    for name in node.names:
        scope.outer[name] = scope.home_of(name)


def _break(machine: Machine, node: ast.Break, scope: Scope) -> None:
    raise BreakLoop


def _continue(machine: Machine, node: ast.Continue, scope: Scope) -> None:
    raise ContinueLoop


def _match(machine: Machine, node: ast.Match, scope: Scope) -> None:
    run_match(machine, node, scope)


STATEMENTS: dict[type[ast.AST], Callable[[Any, Any, Scope], None]] = {
    ast.Expr: _expression,
    ast.Assign: _assign,
    ast.AnnAssign: _annotated,
    ast.AugAssign: augmented,
    ast.Delete: _delete,
    ast.If: _if,
    ast.For: _for,
    ast.AsyncFor: _for,
    ast.While: _while,
    ast.With: _with,
    ast.AsyncWith: _with,
    ast.FunctionDef: _function,
    ast.AsyncFunctionDef: _function,
    ast.ClassDef: _class,
    ast.Return: _return,
    ast.Raise: run_raise,
    ast.Try: run_try,
    ast.Import: _import,
    ast.ImportFrom: _import_from,
    ast.Global: _global,
    ast.Nonlocal: _nonlocal,
    ast.Break: _break,
    ast.Continue: _continue,
    ast.Match: _match,
}
"""What runs each kind of statement."""
