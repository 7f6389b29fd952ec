"""Where losses are read as numbers, added up and shown."""

from __future__ import annotations

import ast
import math
from typing import TYPE_CHECKING

from gradledger.ledger import Metric
from gradledger.lint.machine.values import Reading, Tensor, Unknown, Value

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine


def read(machine: Machine, tensor: Tensor, node: ast.AST) -> Value:
    """``tensor.item()`` or ``float(tensor)``."""
    if tensor.number is not None:
        return tensor.number
    host_waits(machine, node)
    number = Unknown("number", True)
    if tensor.reduction == "mean" and tensor.scale is not None:
        number.reading = Reading(tensor.scale, tensor.count, node)
    return number


def host_waits(machine: Machine, node: ast.AST) -> None:
    """The host reads from the device; whether with every micro-batch shows at the end."""
    if not machine.no_grad and machine.loop_lines:
        machine.host_reads.setdefault(node, set()).add(machine.num_calls)


def record_host_reads(machine: Machine) -> None:
    """Write down the reads that came with every micro-batch."""
    for node, calls in machine.host_reads.items():
        if len(calls) > 1 and len(calls) >= machine.num_calls - 1:
            machine.record(Metric, node, name="read", host_sync=True)


def combined(op: type[ast.operator], left: Value, right: Value) -> Reading | None:
    """The reading in ``left op right``; None where it is no longer one."""
    a, b = reading_of(left), reading_of(right)
    if op is ast.Add and a is not None and b is not None:
        return Reading(a.coefficient + b.coefficient, a.count + b.count, a.node)
    if op in (ast.Add, ast.Mult) and a is None:
        a, left, right = b, right, left
    if a is None or not isinstance(right, int | float):
        return None
    if op is ast.Add:
        return a if right == 0 else None
    if op is ast.Mult:
        return Reading(a.coefficient * right, a.count, a.node)
    if op is ast.Div and right:
        return Reading(a.coefficient / right, 1 if right == a.count else a.count, a.node)
    return None


def reading_of(value: Value) -> Reading | None:
    """The reading that a value carries."""
    return value.reading if isinstance(value, Unknown) else None


def show(machine: Machine, value: Value) -> None:
    """A number reaches a log, a list or the screen: it must be a mean or a sum of whole losses."""
    reading = reading_of(value)
    if reading is None or reading.node in machine.shown:
        return
    machine.shown.add(reading.node)
    whole = any(math.isclose(reading.coefficient, wanted, rel_tol=1e-3) for wanted in (1.0, float(reading.count)))
    scale = 1.0 if whole else reading.coefficient / (1 if reading.coefficient < 1 else reading.count)
    machine.record(Metric, reading.node, name="loss", scale=scale)
