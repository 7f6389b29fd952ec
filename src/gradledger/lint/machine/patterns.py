"""``match``: which case a subject takes, and what the case's names are bound to."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from gradledger.lint.machine import classes
from gradledger.lint.machine.attributes import get_attribute
from gradledger.lint.machine.operators import compare
from gradledger.lint.machine.scope import Scope
from gradledger.lint.machine.values import Class, External, Instance, Native, Tensor, Unknown, Value

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine


def run_match(machine: Machine, node: ast.Match, scope: Scope) -> None:
    """``match subject: case …``."""
    subject = machine.evaluate(node.subject, scope)
    for case in node.cases:
        if not _fits(machine, case.pattern, subject, scope):
            continue
        if case.guard is None or machine.truth(machine.evaluate(case.guard, scope), case.guard):
            machine.execute(case.body, scope)
            return


def _fits(machine: Machine, pattern: ast.pattern, subject: Value, scope: Scope) -> bool:
    if isinstance(pattern, ast.MatchValue):
        value = machine.evaluate(pattern.value, scope)
        return machine.truth(compare(machine, ast.Eq(), subject, value, pattern), pattern)
    if isinstance(pattern, ast.MatchSingleton):
        value = ast.copy_location(ast.Constant(pattern.value), pattern)
        return machine.truth(compare(machine, ast.Is(), subject, value.value, pattern), pattern)
    if isinstance(pattern, ast.MatchOr):
        return any(_fits(machine, part, subject, scope) for part in pattern.patterns)
    if isinstance(pattern, ast.MatchAs):
        if pattern.pattern is not None and not _fits(machine, pattern.pattern, subject, scope):
            return False
        if pattern.name is not None:
            scope.set(pattern.name, subject)
        return True
    if isinstance(pattern, ast.MatchSequence):
        return _fits_sequence(machine, pattern.patterns, subject, scope)
    if isinstance(pattern, ast.MatchMapping):
        return _fits_mapping(machine, pattern, subject, scope)
    return isinstance(pattern, ast.MatchClass) and _fits_class(machine, pattern, subject, scope)


def _fits_sequence(machine: Machine, patterns: list[ast.pattern], subject: Value, scope: Scope) -> bool:
    if isinstance(subject, Unknown | Tensor):
        elements = [subject if isinstance(subject, Tensor) else Unknown(f"{subject.path}[]", True) for _ in patterns]
    elif isinstance(subject, list | tuple):
        elements = list(subject)
    else:
        return False
    stars = [index for index, pattern in enumerate(patterns) if isinstance(pattern, ast.MatchStar)]
    if stars:
        before, after = stars[0], len(patterns) - stars[0] - 1
        if len(elements) < before + after:
            return False
        middle = elements[before : len(elements) - after]
        star = patterns[before]
        if isinstance(star, ast.MatchStar) and star.name is not None:
            scope.set(star.name, middle)
        patterns = [*patterns[:before], *patterns[before + 1 :]]
        elements = [*elements[:before], *elements[len(elements) - after :]]
    if len(elements) != len(patterns):
        return False
    return all(_fits(machine, part, element, scope) for part, element in zip(patterns, elements, strict=True))


def _fits_mapping(machine: Machine, pattern: ast.MatchMapping, subject: Value, scope: Scope) -> bool:
    keys = [machine.evaluate(key, scope) for key in pattern.keys]
    if not isinstance(subject, dict) or any(key not in subject for key in keys):
        return False
    if pattern.rest is not None:
        scope.set(pattern.rest, {key: value for key, value in subject.items() if key not in keys})
    return all(_fits(machine, part, subject[key], scope) for key, part in zip(keys, pattern.patterns, strict=True))


def _fits_class(machine: Machine, pattern: ast.MatchClass, subject: Value, scope: Scope) -> bool:
    wanted = machine.evaluate(pattern.cls, scope)
    kind = machine.call(machine.builtin("isinstance"), [subject, wanted], {}, pattern)
    if not machine.truth(kind, pattern):
        return False
    if isinstance(wanted, Native | External) and len(pattern.patterns) == 1:
        return _fits(machine, pattern.patterns[0], subject, scope)  # int(x), str(name)
    names = [*_positional(wanted), *pattern.kwd_attrs] if pattern.patterns else list(pattern.kwd_attrs)
    parts = [*pattern.patterns, *pattern.kwd_patterns]
    if len(names) < len(parts) or not isinstance(subject, Instance | Unknown):
        return not parts
    if pattern.patterns:
        names = [*names[: len(pattern.patterns)], *pattern.kwd_attrs]
    return all(
        _fits(machine, part, get_attribute(machine, subject, name, pattern), scope)
        for name, part in zip(names, parts, strict=True)
    )


def _positional(wanted: Value) -> list[str]:
    """The attributes that a class's positional patterns stand for."""
    if not isinstance(wanted, Class):
        return []
    given = wanted.lookup("__match_args__")
    return list(given) if isinstance(given, tuple | list) else classes.record_fields(wanted)
