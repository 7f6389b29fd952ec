"""Loops, unrolled: as many passes as the source says, or a few that show the same remainders."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradledger.ledger import EpochEnd, EpochStart
from gradledger.lint.machine.iteration import is_loader, sized
from gradledger.lint.machine.machine import BreakLoop, ContinueLoop, EndOfProgram
from gradledger.lint.machine.scope import Scope
from gradledger.lint.machine.values import Loader, Unknown, Value

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

MAX_PASSES = 40
"""A loop with more passes is shortened."""
MAX_OUTER_PASSES = 6
"""A ``while`` around whole windows or passes is left after this many."""
MAX_IDLE_PASSES = 400
"""A loop that touches no gradients may run this often, so that lists get built and counters counted."""


def run_for(machine: Machine, node: ast.For | ast.AsyncFor, scope: Scope, assign: Callable[..., None]) -> None:
    """``for … in …: … else: …``."""
    iterable = machine.evaluate(node.iter, scope)
    works = machine.relevance.touches_gradients(node)
    if not works and isinstance(iterable, Unknown):
        iterable = [Unknown(f"{iterable.path}[]", True, iterable.leaves)]
    long = sized(iterable)
    if long is not None and long > (MAX_PASSES if works or machine.no_grad else MAX_IDLE_PASSES):
        elements: Any = _shortened(machine, iterable, long, node)
    else:
        elements = machine.iterate(iterable, node)
    start = machine.book.mark()
    finished = _run_passes(machine, node, scope, elements, assign, works)
    if not finished and works and is_loader(iterable) and machine.assumed_length:
        machine.left_early = True  # with assumed lengths, where a limit strikes says nothing
    if works:
        machine.book.frame_epoch(start)
    if finished:
        machine.execute(node.orelse, scope)


def _run_passes(
    machine: Machine,
    node: ast.For | ast.AsyncFor,
    scope: Scope,
    elements: Any,
    assign: Callable[..., None],
    works: bool,
) -> bool:
    for count, element in enumerate(elements):
        if count > MAX_IDLE_PASSES or (works and count > 4 * MAX_PASSES):
            raise EndOfProgram
        assign(machine, node.target, element, scope)
        machine.loop_lines.append(node.lineno)
        try:
            machine.execute(node.body, scope)
        except ContinueLoop:
            continue
        except BreakLoop:
            if hasattr(elements, "close"):
                elements.close()
            return False
        finally:
            machine.loop_lines.pop()
    return True


def _shortened(machine: Machine, iterable: Value, length: int, node: ast.AST) -> Any:
    """The elements that show what a long loop does: the first two windows, then the end of the last ones.

    A loop around a whole pass over the data keeps three passes.
    """
    from gradledger.lint.machine.iteration import element_of

    loader = iterable if isinstance(iterable, Loader) else None
    if loader is not None:
        machine.record(EpochStart, node, num_micro_batches=length)
    depth = len(machine.loop_lines)
    machine.deepest_backward = -1
    window = machine.window
    yield element_of(machine, iterable, 0, node)
    if machine.deepest_backward > depth + 1:
        yield element_of(machine, iterable, 1, node)
        yield element_of(machine, iterable, length - 1, node)
    else:
        rest = length % window or window
        for index in [*range(1, 2 * window), *range(length - rest, length)]:
            yield element_of(machine, iterable, index, node)
    if loader is not None:
        machine.record(EpochEnd, node)


def run_while(machine: Machine, node: ast.While, scope: Scope) -> None:
    """``while …: … else: …``."""
    works = machine.relevance.touches_gradients(node)
    limit = 4 * MAX_PASSES if works else MAX_IDLE_PASSES
    depth = len(machine.loop_lines)
    machine.deepest_backward = -1
    for count in range(limit + 1):
        if machine.deepest_backward > depth + 1 and count >= MAX_OUTER_PASSES:
            raise EndOfProgram
        value = machine.evaluate(node.test, scope)
        if isinstance(value, Unknown) and count >= machine.window * 2 + 1:
            break
        if not machine.truth(value, node.test):
            break
        if count == limit:
            raise EndOfProgram
        machine.loop_lines.append(node.lineno)
        try:
            machine.execute(node.body, scope)
        except ContinueLoop:
            continue
        except BreakLoop:
            return
        finally:
            machine.loop_lines.pop()
    machine.execute(node.orelse, scope)
