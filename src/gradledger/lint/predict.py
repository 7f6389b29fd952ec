"""Predicts the ledgers that a file's training loops would keep."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from gradledger.ledger import EpochStart, Ledger
from gradledger.lint.frameworks import lightning
from gradledger.lint.machine.choices import Choices, alternatives
from gradledger.lint.machine.machine import (
    BreakLoop,
    ContinueLoop,
    EndOfProgram,
    GaveUpError,
    Machine,
    Raised,
    ReturnValue,
)
from gradledger.lint.machine.numbers import ASSUMED_STEPS, named, number_for
from gradledger.lint.machine.readings import record_host_reads
from gradledger.lint.machine.scope import Scope
from gradledger.lint.machine.threads import TooManyGeneratorsError
from gradledger.lint.machine.truth import Relevance
from gradledger.lint.machine.values import Class, Function, Instance, Native, Value

MAX_STEPS = 120_000
"""Nodes that one run may evaluate."""
MAX_STEPS_PER_FILE = 400_000
MAX_WINDOW = 64


@dataclass(slots=True)
class Prediction:
    """What one run over one entry point predicts.

    Args:
        entry: The function that was entered; empty for the module itself.
        truths: The unknown flags and the truth that this run took for each.
        unclear: Why the ledger cannot be judged, where something happens out of sight.
        whole: The run came to the program's end through passes that were not broken off, so that what is open then
            stays open.
        assumed_length: How many micro-batches there are was not in the source.
    """

    entry: str
    ledger: Ledger
    truths: dict[str, bool]
    varying: set[str] = field(default_factory=set)
    unclear: list[str] = field(default_factory=list)
    whole: bool = True
    assumed_length: bool = False


@dataclass(slots=True)
class FilePredictions:
    """All predictions of a file, by entry point, and why parts of it have none."""

    entries: dict[str, list[Prediction]] = field(default_factory=dict)
    not_analysed: list[str] = field(default_factory=list)


class _Budget:
    def __init__(self) -> None:
        self.steps = MAX_STEPS_PER_FILE


def predict(tree: ast.Module, file: str) -> FilePredictions:
    """The ledgers that the file's training loops would keep.

    The module runs as ``__main__`` first; a function that does gradient work and was not reached is then entered by
    itself, its arguments unknown.
    """
    result = FilePredictions()
    relevance = Relevance(tree)
    budget = _Budget()
    with _deep_recursion():
        executed = _predict_entry(tree, file, relevance, None, result, budget)
        for target in _entry_points(tree, relevance):
            if target.node in executed:
                continue
            executed |= _predict_entry(tree, file, relevance, target, result, budget)
    return result


@contextmanager
def _deep_recursion() -> Iterator[None]:
    old = sys.getrecursionlimit()
    sys.setrecursionlimit(max(old, 12_000))
    try:
        yield
    finally:
        sys.setrecursionlimit(old)


@dataclass(frozen=True, slots=True)
class _Target:
    node: ast.FunctionDef | ast.AsyncFunctionDef
    owner: str | None

    @property
    def name(self) -> str:
        return f"{self.owner}.{self.node.name}" if self.owner else self.node.name


def _entry_points(tree: ast.Module, relevance: Relevance) -> list[_Target]:
    """Functions worth entering, callers before what they call."""
    targets: list[_Target] = []
    for node in tree.body:
        for child in _definitions(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and relevance.touches_gradients(child):
                targets.append(_Target(child, None))
            elif isinstance(child, ast.ClassDef):
                methods = [m for m in child.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)]
                working = [m for m in methods if relevance.touches_gradients(m) and m.name != "__init__"]
                targets += [_Target(method, child.name) for method in working]
    called = {name for target in targets for name in _called(target.node) if name != target.node.name}
    return sorted(targets, key=lambda target: target.node.name in called)


def _definitions(node: ast.stmt) -> list[ast.stmt]:
    if isinstance(node, ast.If | ast.Try):
        return [child for child in node.body if isinstance(child, ast.FunctionDef | ast.ClassDef)]
    return [node]


def _called(node: ast.AST) -> set[str]:
    return {
        child.func.attr if isinstance(child.func, ast.Attribute) else child.func.id
        for child in ast.walk(node)
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute | ast.Name)
    }


def _predict_entry(
    tree: ast.Module, file: str, relevance: Relevance, target: _Target | None, result: FilePredictions, budget: _Budget
) -> set[ast.AST]:
    """Run one entry point in every truth of its flags; returns the functions that were reached."""
    name = "" if target is None else target.name
    first = _run(tree, file, relevance, target, Choices(), budget, result)
    if first is None:
        return set()
    machine, prediction = first
    executed = set(machine.executed)
    runs = [prediction]
    if _did_gradient_work(prediction):
        for truths in alternatives(machine.choices.asked):
            again = _run(tree, file, relevance, target, Choices(truths), budget, result, machine.window)
            if again is not None:
                runs.append(again[1])
                executed |= again[0].executed
        result.entries[name] = runs
    return executed


def _did_gradient_work(prediction: Prediction) -> bool:
    return len(prediction.ledger) > 0


def _run(
    tree: ast.Module,
    file: str,
    relevance: Relevance,
    target: _Target | None,
    choices: Choices,
    budget: _Budget,
    result: FilePredictions,
    window: int = ASSUMED_STEPS,
) -> tuple[Machine, Prediction] | None:
    """One run; once more with longer loops where the first shows that windows are longer than assumed."""
    outcome = _run_once(tree, file, relevance, target, choices, budget, result, window)
    if outcome is None:
        return None
    machine, _ = outcome
    wanted = max((size for size in machine.moduli if size <= MAX_WINDOW), default=window)
    if wanted > window and machine.assumed_length:
        fresh = Choices(dict(choices.truths))
        again = _run_once(tree, file, relevance, target, fresh, budget, result, wanted)
        return outcome if again is None else again
    return outcome


def _run_once(
    tree: ast.Module,
    file: str,
    relevance: Relevance,
    target: _Target | None,
    choices: Choices,
    budget: _Budget,
    result: FilePredictions,
    window: int,
) -> tuple[Machine, Prediction] | None:
    name = "" if target is None else target.name
    if budget.steps <= 0:
        _add(result.not_analysed, f"{name or 'the module'}: the file takes too many steps")
        return None
    machine = Machine(file, choices, min(MAX_STEPS, budget.steps), relevance, window)
    given = machine.steps_left
    whole = True
    try:
        whole = _enter(machine, tree, target)
    except Exception as error:  # a fault of the machine costs one entry point its analysis, never the whole run
        reason = _why(error)
        _add(result.not_analysed, f"{name or 'the module'}: {reason}")
        return None
    finally:
        machine.generators.close()
        budget.steps -= given - machine.steps_left
    record_host_reads(machine)
    unclear = list(dict.fromkeys(machine.book.unclear))
    prediction = Prediction(
        name,
        machine.book.ledger(),
        truths=dict(machine.choices.asked),
        varying=set(machine.choices.varying),
        unclear=unclear,
        whole=whole,
        assumed_length=machine.assumed_length,
    )
    return machine, prediction


def _why(error: Exception) -> str:
    if isinstance(error, GaveUpError | TooManyGeneratorsError):
        return str(error)
    return "it nests too deeply" if isinstance(error, RecursionError) else f"{type(error).__name__}: {error}"


def _add(reasons: list[str], reason: str) -> None:
    if reason not in reasons:
        reasons.append(reason)


def _enter(machine: Machine, tree: ast.Module, target: _Target | None) -> bool:
    """Run the module, or its definitions and then one function; True if a whole training came to its own end."""
    scope = Scope()
    try:
        if target is None:
            machine.execute(tree.body, scope)
            return not machine.left_early
        scope.names["__name__"] = "module"
        _quietly(machine, tree, scope)
        num_optimizers = len(machine.book.optimizers)
        _enter_function(machine, scope, target)
    except (EndOfProgram, Raised):
        return False
    except (BreakLoop, ContinueLoop, ReturnValue):
        return True
    made = machine.book.optimizers[num_optimizers:]
    makes_its_own = len(made) == len(machine.book.optimizers) and all(one.kind != "unknown" for one in made)
    return makes_its_own and target.owner is None and not machine.left_early


def _quietly(machine: Machine, tree: ast.Module, scope: Scope) -> None:
    """Bind the module's names without writing anything down."""
    with suppress(EndOfProgram, Raised):
        machine.execute([node for node in tree.body if not isinstance(node, ast.For | ast.While)], scope)
    machine.book.events.clear()
    machine.executed.clear()


def _enter_function(machine: Machine, scope: Scope, target: _Target) -> None:
    if target.owner is None:
        function = scope.get(target.node.name)
        if isinstance(function, Function):
            _call_as_epochs(machine, function, [], target.node)
        elif isinstance(function, Native):
            machine.call(function, [], {}, target.node)
        return
    cls = scope.get(target.owner)
    if not isinstance(cls, Class):
        return
    instance: Value = machine.call(cls, [], _arguments(cls.lookup("__init__")), target.node)
    method = cls.lookup(target.node.name)
    if not isinstance(method, Function) or not isinstance(instance, Instance):
        return
    if lightning.is_lightning(instance):
        if target.node.name in ("training_step", "configure_optimizers"):
            lightning.fit(machine, instance, None, {}, target.node)
        return
    args = [] if "staticmethod" in method.wrappers else [instance]
    _call_as_epochs(machine, method, args, target.node)


def _call_as_epochs(machine: Machine, function: Function, args: list[Value], node: ast.AST) -> None:
    """Call a function; once more with the same arguments where it is one pass over the data, as its callers will.

    A function that makes its own optimizer is the whole training, and no pass of it.
    """
    book = machine.book
    given = _arguments(function, num_given=len(args))
    machine.call(function, args, given, node)
    if sum(event.kind is EpochStart for event in book.events) != 1:
        return
    end, num_optimizers = book.mark(), len(book.optimizers)
    machine.call(function, args, given, node)
    if len(book.optimizers) > num_optimizers:
        del book.events[end:], book.optimizers[num_optimizers:]


def _arguments(function: Value, num_given: int = 1) -> dict[str, Value]:
    """Arguments for a function that is entered by itself: a default of None may be anything, and 1 step more."""
    if not isinstance(function, Function):
        return {}
    arguments = function.node.args
    names = [argument.arg for argument in [*arguments.posonlyargs, *arguments.args]][num_given:]
    names += [argument.arg for argument in arguments.kwonlyargs]
    given: dict[str, Value] = {name: named(name) for name in names if name not in function.defaults}
    for name, default in function.defaults.items():
        number = number_for(name)
        if default is None:
            given[name] = named(name)
        elif default == 1 and number == ASSUMED_STEPS:
            given[name] = number
    return given
