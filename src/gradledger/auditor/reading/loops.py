"""The loops in the user's source around a line, and where they stand."""

from __future__ import annotations

import ast
import inspect
import linecache
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType
from typing import Any

from gradledger.auditor.reading.locations import user_frames

_Primitive = int | str | float | bool | None


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop in the source: its lines, the names that it binds, and whether something steps in it."""

    first_line: int
    last_line: int
    names: tuple[str, ...]
    steps: bool

    def holds(self, line: int) -> bool:
        """The line is in the loop's body."""
        return self.first_line <= line <= self.last_line


def pass_of(frame: FrameType | None) -> tuple[tuple[str, Loop], tuple[Any, ...]] | None:
    """The loop over micro-batches around a line, and where the loops around it stand."""
    for outer in user_frames(frame):
        around = loops_around(outer.f_code.co_filename, outer.f_lineno)
        if around:
            loop = next((loop for loop in reversed(around) if loop.steps), around[-1])
            return (outer.f_code.co_filename, loop), position_of(outer, loop)
    return None


def position_of(frame: FrameType, loop: Loop) -> tuple[Any, ...]:
    """The values of the loops around a loop, in its function and in its callers."""
    position: list[Any] = []
    for depth, outer in enumerate(user_frames(frame)):
        line = loop.first_line if depth == 0 else outer.f_lineno
        around = loops_around(outer.f_code.co_filename, line)
        names = [name for other in around if depth or other != loop for name in other.names]
        if outer.f_code.co_name in ("<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>"):
            names = list(outer.f_code.co_varnames)
        position += [outer.f_code.co_name, 0 if depth == 0 else line, *_values(outer, names)]
    return tuple(position)


def _values(frame: FrameType, names: list[str]) -> list[_Primitive]:
    if not names:
        return []
    variables = frame.f_locals
    values = [variables.get(name) for name in names]
    is_snapshot = isinstance(variables, dict) and frame.f_code.co_flags & inspect.CO_OPTIMIZED
    if is_snapshot:
        variables.clear()  # it would keep the user's tensors alive
    return [value if isinstance(value, int | str | float) else id(value) for value in values]


@lru_cache(maxsize=4096)
def loops_around(file: str, line: int) -> tuple[Loop, ...]:
    """The loops that a line is in, outer ones first."""
    return tuple(loop for loop in loops_of(file) if loop.holds(line))


@lru_cache(maxsize=256)
def loops_of(file: str) -> tuple[Loop, ...]:
    """The loops of a source file, outer ones first."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return ()
    found = [node for node in ast.walk(tree) if isinstance(node, ast.For | ast.AsyncFor | ast.While)]
    loops = [_loop(node) for node in found]
    return tuple(sorted(loops, key=lambda loop: (loop.first_line, -loop.last_line)))


def _loop(node: ast.For | ast.AsyncFor | ast.While) -> Loop:
    target = None if isinstance(node, ast.While) else node.target
    names = [name.id for name in ast.walk(target) if isinstance(name, ast.Name)] if target else []
    steps = any(
        isinstance(inner, ast.Attribute) and inner.attr == "step"
        for statement in node.body
        for inner in ast.walk(statement)
    )
    return Loop(node.lineno, node.body[-1].end_lineno or node.lineno, tuple(names), steps)
