"""What one thread of the audited program is in the middle of."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gradledger.auditor.reading.loss_graph import Reading
from gradledger.auditor.recording.account import Account
from gradledger.auditor.recording.blend import Blend
from gradledger.ledger import Location, Zero


@dataclass(slots=True)
class RunningStep:
    """A call of ``optimizer.step`` that has not returned."""

    optimizer: Any
    account: Account
    has_closure: bool
    in_backward: bool
    location: Location | None
    recorded_inside: bool = False
    zeros: list[Zero] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What the last survey of a line's graph came to."""

    num_unowned: int | None = None
    batch_norm: bool | None = None
    num_rows: int | None = None
    joins_cache: bool = False
    fills_cache: bool = False


@dataclass(slots=True)
class Call:
    """A backward call that is running or has run."""

    number: int
    location: Location | None
    reading: Reading
    retained: bool
    reuses: int | None
    finite: bool | None
    surveyed: Surveyed
    trainer_steps: int | None = None
    recorded: set[str] = field(default_factory=set)
    sharded: dict[int, bool] = field(default_factory=dict)


class ThreadState(threading.local):
    """The calls that this thread has not returned from."""

    def __init__(self) -> None:
        self.steps: list[RunningStep] = []
        self.backward_depth = 0
        self.quiet = 0
        self.scheduler_depth = 0
        self.mode_depth = 0
        self.scaler: Any = None
        self.scaler_stepped = False
        self.call: Call | None = None
        self.blends: dict[int, tuple[weakref.ref[Any], int, Blend]] = {}

    @property
    def is_watched(self) -> bool:
        """What happens to tensors now is the program's own doing: not an optimizer's, nor known otherwise."""
        return not self.quiet and not self.steps

    def step_of(self, account: Account) -> RunningStep | None:
        """The innermost running step of an account."""
        return next((step for step in reversed(self.steps) if step.account is account), None)

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Changes of gradients in here are known to the caller and not noted one by one."""
        self.quiet += 1
        try:
            yield
        finally:
            self.quiet -= 1
