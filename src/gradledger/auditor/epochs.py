"""Where one pass over the training data ends and the next begins.

A ``DataLoader`` says so itself. Where there is none, the user's loops do: the innermost loop around a backward (the one
that also holds a step, if one does) is the pass over micro-batches; a new pass begins when a loop around it moves on,
or when it is left and entered again.
"""

from __future__ import annotations

import ast
import inspect
import linecache
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType
from typing import TYPE_CHECKING, Any

from gradledger.auditor.locations import user_frame, user_frames

if TYPE_CHECKING:
    from gradledger.auditor.account import Account
    from gradledger.auditor.recorder import Recorder

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


@dataclass(frozen=True, slots=True)
class LoaderPass:
    """One pass over a ``DataLoader``.

    Args:
        number: Unique in this audit.
        loader: Identity of the loader.
        dataset: Identity of its dataset: some programs build a new loader for each epoch.
        num_micro_batches: Its length, where it has one.
    """

    number: int
    loader: int
    dataset: int
    num_micro_batches: int | None

    def follows(self, other: LoaderPass) -> bool:
        """Another pass over the same data."""
        return self.loader == other.loader or self.dataset == other.dataset


class EpochWatch:
    """Tells the recorder of borders between epochs."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.epoch = 0
        self.num_passes = 0
        self.current: LoaderPass | None = None
        self.fetched: dict[int, LoaderPass] = {}
        self.ended = False
        self.is_over = False
        self.position: tuple[Any, ...] | None = None
        self.loop: tuple[str, Loop] | None = None

    # DataLoaders

    def open_pass(self, loader: Any) -> LoaderPass:
        """An iterator over a loader was made."""
        self.num_passes += 1
        return LoaderPass(self.num_passes, id(loader), id(loader.dataset), _length(loader))

    def fetch(self, loader_pass: LoaderPass) -> None:
        """A micro-batch was taken from a loader."""
        self._flush()
        self.fetched[loader_pass.number] = loader_pass

    def exhausted(self, loader_pass: LoaderPass) -> None:
        """A loader came to its end."""
        if loader_pass is self.current:
            self.ended = self.is_over = True

    def _flush(self) -> None:
        if self.ended:
            self.ended = False
            self.recorder.mark_epoch(ended=True, epoch=self.epoch)
            self.epoch += 1

    # Events

    def before_backward(self, frame: FrameType | None) -> None:
        """A backward took place: note which pass it belongs to."""
        if self.fetched:
            self._follow_loader()
        elif self.current is None:
            self._follow_loops(frame)

    def before_zero(self, account: Account, left_loop: bool) -> None:
        """A zeroing: an epoch that has ended is marked before it."""
        self._flush()
        if left_loop and account.in_epoch:
            self._border()

    def has_left_loop(self, account: Account) -> bool:
        """The program is no longer in the loop over micro-batches, or in another pass of it."""
        if self.current is not None or self.loop is None or not account.in_epoch:
            return False
        return not self._in_loop()

    def before_step(self, account: Account) -> None:
        """A step: an epoch that has ended is marked before it."""
        self._flush()

    def _follow_loader(self) -> None:
        fetched = list(self.fetched.values())
        self.fetched.clear()
        if self.current in fetched and not self.is_over:
            return
        before, self.current = self.current, fetched[0]
        if before is not None and not self.is_over and fetched[0].follows(before):
            self.recorder.mark_epoch(ended=False, epoch=self.epoch, num_micro_batches=fetched[0].num_micro_batches)
            self.epoch += 1
        self.is_over = False

    def _follow_loops(self, frame: FrameType | None) -> None:
        found = _pass_of(frame)
        if found is None:
            return
        loop, position = found
        if self.position is not None and position != self.position:
            self._border()
        self.loop, self.position = loop, position

    def _border(self) -> None:
        self.recorder.mark_epoch(ended=False, epoch=self.epoch)
        self.epoch += 1
        self.position = None

    def _in_loop(self) -> bool:
        """The program is still inside the loop of the last backward, in the same pass."""
        assert self.loop is not None
        file, loop = self.loop
        frame = user_frame(2)
        for outer in user_frames(frame):
            if outer.f_code.co_filename == file and loop.holds(outer.f_lineno):
                return self.position is None or _position(outer, loop) == self.position
        return False


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None


def _pass_of(frame: FrameType | None) -> tuple[tuple[str, Loop], tuple[Any, ...]] | None:
    """The loop over micro-batches around a line, and where the loops around it stand."""
    for outer in user_frames(frame):
        around = loops_around(outer.f_code.co_filename, outer.f_lineno)
        if around:
            loop = next((loop for loop in reversed(around) if loop.steps), around[-1])
            return (outer.f_code.co_filename, loop), _position(outer, loop)
    return None


def _position(frame: FrameType, loop: Loop) -> tuple[Any, ...]:
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
