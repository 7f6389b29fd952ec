"""Statements: what each kind of node does."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradledger.lint.machine.attributes import get_attribute, get_item, set_attribute, set_item
from gradledger.lint.machine.contexts import enter, leave
from gradledger.lint.machine.expressions import binary, default_values
from gradledger.lint.machine.loops import run_for, run_while
from gradledger.lint.machine.machine import BreakLoop, ContinueLoop, EndOfProgram, GaveUpError, Raised, ReturnValue
from gradledger.lint.machine.patterns import run_match
from gradledger.lint.machine.scope import Scope
from gradledger.lint.machine.values import Class, External, Function, Grad, Leaf, Tensor, Unknown, Value
from gradledger.lint.torch import tensors

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


def assign(machine: Machine, target: ast.expr, value: Value, scope: Scope) -> None:
    """``target = value``."""
    if isinstance(target, ast.Name):
        scope.set(target.id, named_after(value, target.id))
    elif isinstance(target, ast.Attribute):
        set_attribute(
            machine, machine.evaluate(target.value, scope), target.attr, named_after(value, target.attr), target
        )
    elif isinstance(target, ast.Subscript):
        set_item(machine, machine.evaluate(target.value, scope), machine.evaluate(target.slice, scope), value, target)
    elif isinstance(target, ast.Tuple | ast.List):
        _unpack(machine, target, value, scope)
    elif isinstance(target, ast.Starred):
        assign(machine, target.value, value, scope)


_LOSS_NAME = re.compile(r"(^|_)loss$", re.I)


def named_after(value: Value, name: str) -> Value:
    """An optimizer gets its account's name from the first variable that holds it; an unknown, what it is for."""
    from gradledger.lint.machine.numbers import number_for
    from gradledger.lint.machine.values import Optimizer

    if isinstance(value, Optimizer) and not value.name:
        value.name = name
    if isinstance(value, Tensor):
        return tensors.loss_by_name(value) if _LOSS_NAME.search(name) else value
    if isinstance(value, Unknown) and not value.varying:
        number = number_for(name)
        if number is not None and value.role is None:
            return number
        if re.search(r"(\(\)|\.item\d*)$", value.path) and value.role is None:
            value.path = name
    return value


def _unpack(machine: Machine, target: ast.Tuple | ast.List, value: Value, scope: Scope) -> None:
    wanted = len(target.elts)
    values = unpacked(machine, value, wanted, target)
    stars = [index for index, element in enumerate(target.elts) if isinstance(element, ast.Starred)]
    if stars:
        before, after = stars[0], wanted - stars[0] - 1
        middle = values[before : len(values) - after]
        values = [*values[:before], list(middle), *values[len(values) - after :]]
    for index, element in enumerate(target.elts):
        assign(machine, element, values[index] if index < len(values) else Unknown(varying=True), scope)


def unpacked(machine: Machine, value: Value, wanted: int, node: ast.AST) -> list[Value]:
    """The elements of a value that is unpacked into ``wanted`` names."""
    if isinstance(value, Unknown):
        return [get_item(machine, value, index, node) for index in range(wanted)]
    if isinstance(value, Tensor) and (value.is_batch or not value.shape or value.shape[0] != wanted):
        return [value.like() for _ in range(wanted)]
    values: list[Value] = []
    for element in machine.iterate(value, node):
        values.append(element)
        if len(values) > 100:
            break
    return values


def _augmented(machine: Machine, node: ast.AugAssign, scope: Scope) -> None:
    target = node.target
    if isinstance(target, ast.Name):
        old = machine.evaluate(ast.copy_location(ast.Name(target.id, ast.Load()), target), scope)
        value = machine.evaluate(node.value, scope)
        if isinstance(old, Leaf | Grad):
            _change_in_place(machine, old, node.op, value, node)
            return
        if isinstance(old, list) and isinstance(node.op, ast.Add):
            old.extend(machine.iterate(value, node))
            return
        result = binary(machine, node.op, old, value, node)
        if isinstance(old, Tensor) and isinstance(result, Tensor):
            old.become(result)  # in place, as in torch: every name of it sees the change
            return
        scope.set(target.id, result)
        return
    assert isinstance(target, ast.Attribute | ast.Subscript)
    base = machine.evaluate(target.value, scope)
    if isinstance(target, ast.Attribute):
        old = get_attribute(machine, base, target.attr, node)
        value = machine.evaluate(node.value, scope)
        if isinstance(old, Grad):
            _change_in_place(machine, old, node.op, value, node)
        elif isinstance(base, Leaf) and target.attr == "data":
            tensors.changed_by_hand(base, value)
        else:
            set_attribute(machine, base, target.attr, binary(machine, node.op, old, value, node), node)
        return
    key = machine.evaluate(target.slice, scope)
    old = get_item(machine, base, key, node)
    set_item(machine, base, key, binary(machine, node.op, old, machine.evaluate(node.value, scope), node), node)


def _change_in_place(machine: Machine, old: Leaf | Grad, op: ast.operator, value: Value, node: ast.AST) -> None:
    if isinstance(old, Grad):
        tensors.adjust(machine, old.leaf, tensors.factor_of(type(op), value), node)
    else:
        tensors.changed_by_hand(old, value)


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


def _raise(machine: Machine, node: ast.Raise, scope: Scope) -> None:
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


def _try(machine: Machine, node: ast.Try, scope: Scope) -> None:
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
    ast.AugAssign: _augmented,
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
    ast.Raise: _raise,
    ast.Try: _try,
    ast.Import: _import,
    ast.ImportFrom: _import_from,
    ast.Global: _global,
    ast.Nonlocal: _nonlocal,
    ast.Break: _break,
    ast.Continue: _continue,
    ast.Match: _match,
}
"""What runs each kind of statement."""
