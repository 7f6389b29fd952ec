"""The abstract machine: runs source text on values that stand for tensors, optimizers and the unknown."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from gradledger.ledger import Entry, Location
from gradledger.lint.machine.book import Book, Event
from gradledger.lint.machine.choices import Choices
from gradledger.lint.machine.scope import Scope
from gradledger.lint.machine.threads import Generators
from gradledger.lint.machine.values import MISSING, Context, Leaf, Optimizer, Unknown, Value

MAX_DEPTH = 60


class GaveUpError(Exception):
    """The machine stops here; the message says why."""


class BreakLoop(Exception):  # noqa: N818 - control flow of the interpreted program, not an error
    """``break``."""


class ContinueLoop(Exception):  # noqa: N818
    """``continue``."""


class ReturnValue(Exception):  # noqa: N818
    """``return``."""

    def __init__(self, value: Value) -> None:
        self.value = value


class Raised(Exception):  # noqa: N818
    """The interpreted program raises."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class EndOfProgram(Exception):  # noqa: N818
    """The interpreted program ends itself."""


class Machine:
    """One run over one file.

    Args:
        file: What locations call the file.
        choices: The truths this run takes.
        max_steps: Nodes that it may evaluate.
        relevance: Tells whether a branch can matter to gradients.
        window: Micro-batches of a window, as far as known: lengths left open are twice this and one more.
    """

    def __init__(self, file: str, choices: Choices, max_steps: int, relevance: Any, window: int = 3) -> None:
        self.file = file
        self.choices = choices
        self.steps_left = max_steps
        self.relevance = relevance
        self.book = Book()
        self.generators = Generators()
        self.depth = 0
        self.no_grad = 0
        self.no_sync = 0
        self.evaluating = 0
        self.forward_passes = 0
        self.loop_lines: list[int] = []
        self.passes: list[Any] = []
        self.executed: set[ast.AST] = set()
        self.call_site: Location | None = None
        self.moduli: set[int] = set()
        self.framework: dict[str, Value] = {}
        self.window = window
        self.deepest_backward = -1
        self.num_calls = 0
        self.handlers: list[frozenset[str] | None] = []
        self.stacks: dict[int, list[Value]] = {}
        self.sync_flag = True
        self.assumed_length = False
        self.whole_windows: int | None = None  # micro-batches that a framework that steps at a loader's end is given
        self.left_early = False
        self.in_parallel = 0
        self.sharded: set[int] = set()
        self.host_reads: dict[ast.AST, set[int]] = {}
        self.in_backward = False
        self.hook_location: Location | None = None
        self.retained: dict[Leaf, int] = {}
        self.shown: set[ast.AST] = set()

    def location(self, node: ast.AST | None) -> Location | None:
        """Where a node is."""
        line = getattr(node, "lineno", None)
        return None if line is None else Location(self.file, line)

    def tick(self) -> None:
        """Count one step of work."""
        self.steps_left -= 1
        if self.steps_left < 0:
            raise GaveUpError("it takes too many steps")

    def evaluate(self, node: ast.expr, scope: Scope) -> Value:
        """The value of an expression."""
        from gradledger.lint.machine.expressions import EXPRESSIONS

        self.steps_left -= 1
        if self.steps_left < 0:
            raise GaveUpError("it takes too many steps")
        handler = EXPRESSIONS.get(type(node))
        return Unknown() if handler is None else handler(self, node, scope)

    def execute(self, body: Iterable[ast.stmt], scope: Scope) -> None:
        """Run statements."""
        from gradledger.lint.machine.statements import STATEMENTS

        for node in body:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise GaveUpError("it takes too many steps")
            handler = STATEMENTS.get(type(node))
            if handler is not None:
                handler(self, node, scope)

    def call(self, function: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
        """Call anything."""
        from gradledger.lint.machine.calls import call

        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.depth -= 1
            raise GaveUpError("it recurses too deeply")
        try:
            return call(self, function, args, kwargs, node)
        finally:
            self.depth -= 1

    def iterate(self, value: Value, node: ast.AST) -> Iterator[Value]:
        """The elements of anything, one at a time."""
        from gradledger.lint.machine.iteration import iterate

        for element in iterate(self, value, node):
            self.tick()  # an endless source must not be read for ever
            yield element

    def builtin(self, name: str) -> Value:
        """One of Python's own functions."""
        from gradledger.lint.python.builtins import BUILTINS

        return BUILTINS[name]

    def record(
        self,
        kind: type[Entry],
        node: ast.AST | None,
        *,
        optimizer: Optimizer | None = None,
        leaves: frozenset[Leaf] | None = None,
        assumed: bool = False,
        **fields: Any,
    ) -> None:
        """Write an event down."""
        self.book.record(Event(kind, self.location(node), optimizer, leaves, fields, assumed))

    def truth(self, value: Value, node: ast.AST | None = None, *, branch: ast.AST | None = None) -> bool:
        """The truth of a value; that of an unknown one is chosen, the same throughout a run."""
        from gradledger.lint.machine.truth import truth

        return truth(self, value, node, branch)

    def new_forward(self) -> int:
        """A number for one forward pass."""
        self.forward_passes += 1
        return self.forward_passes

    @contextmanager
    def without_grad(self) -> Iterator[None]:
        """As under ``torch.no_grad``."""
        self.no_grad += 1
        try:
            yield
        finally:
            self.no_grad -= 1

    def sync_context(self) -> Context:
        """``model.no_sync()``."""
        from gradledger.lint.machine.contexts import no_sync

        return no_sync(self)

    def flag_set(self, base: Value, name: str, value: Value) -> None:
        """An attribute of a library object was set; one of them decides whether ranks are synchronised."""
        if name in ("require_backward_grad_sync", "requires_gradient_sync"):
            self.sync_flag = value is not False

    def framework_attribute(self, instance: Value, name: str) -> Value:
        """An attribute that a framework's base class gives an object of the file."""
        return self.framework.get(name, MISSING)
