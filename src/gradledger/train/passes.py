"""One pass over the data, with the engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from gradledger.engine import Accumulator, Window
from gradledger.ledger import Ledger
from gradledger.train.config import Tail
from gradledger.train.interrupts import Interrupts
from gradledger.train.loading import own_part
from gradledger.train.memory import PeakMemory
from gradledger.train.setup import Setup


class ClosedWindow(Protocol):
    """What is read of a window that has closed."""

    @property
    def loss(self) -> float:
        """The loss of the effective batch."""
        ...

    @property
    def grad_norm(self) -> float | None:
        """Before clipping."""
        ...

    @property
    def skipped(self) -> bool:
        """Whether it closed without an update."""
        ...


@dataclass(frozen=True, slots=True)
class Update:
    """A closed window, not yet read, with what only the loop knows of it; samples and micro-batches of all ranks."""

    window: ClosedWindow
    update: int
    lr: float
    num_samples: int
    num_micro_batches: int
    seconds: float


class Clock:
    """Adds up where the time goes."""

    def __init__(self) -> None:
        self.start()
        self.seconds = {"data": 0.0, "forward_backward": 0.0, "step": 0.0}

    def start(self) -> None:
        """Let :attr:`total` begin at 0."""
        self._started = perf_counter()

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self._started

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Adds the time inside to a part."""
        started = perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += perf_counter() - started


class Passes(Protocol):
    """Trains, a pass over the data at a time, and keeps a ledger."""

    ledger: Ledger

    @property
    def num_updates(self) -> int:
        """Updates made so far."""
        ...

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches seen so far."""
        ...

    @property
    def reduction(self) -> str | None:
        """When ranks reduce gradients and what that takes; None in one process."""
        ...

    def one_pass(self, *, tail: Tail) -> Iterator[Update]:
        """Train on each sample once; yields as windows close."""
        ...

    def schedule(self, validation_loss: float) -> None:
        """The validation loss is known."""
        ...


class EnginePasses:
    """Passes through :class:`gradledger.Accumulator`."""

    def __init__(self, setup: Setup, clock: Clock, memory: PeakMemory, interrupts: Interrupts) -> None:
        config = setup.config
        self._setup, self._clock, self._memory, self._interrupts = setup, clock, memory, interrupts
        self._accumulator = Accumulator(
            setup.model,
            setup.optimizer,
            scheduler=setup.scheduler,
            clip_norm=config.clip_norm,
            clip_value=config.clip_value,
            precision=config.precision,
            weight=setup.weight,
            device=setup.device,
            non_finite=config.non_finite,
            sync=config.sync,
        )
        self.ledger = self._accumulator.ledger

    @property
    def num_updates(self) -> int:
        """Updates made so far."""
        return self._accumulator.num_updates

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches seen so far."""
        return self._accumulator.num_micro_batches

    @property
    def reduction(self) -> str | None:
        """When ranks reduce gradients and what that takes; None in one process."""
        cost = self._accumulator.sync_cost
        return None if cost is None else str(cost)

    def one_pass(self, *, tail: Tail) -> Iterator[Update]:
        """Train on each sample once; yields as windows close."""
        setup, clock = self._setup, self._clock
        windows = self._windows(tail)
        while True:
            with clock.measure("data"):
                window = next(windows, None)
            if window is None:
                return
            lr, num_samples, num_micro_batches = float(setup.optimizer.param_groups[0]["lr"]), 0, 0
            with self._memory.window():
                started = perf_counter()
                with window:
                    for inputs, labels in window:
                        if setup.ranks.size == 1:  # several ranks are interrupted between windows, all at once
                            self._interrupts.check()
                        window.backward(setup.loss(setup.model(inputs), labels))
                        if not window.is_padding:
                            num_samples += len(labels)
                            num_micro_batches += 1
                    closing = perf_counter()
                clock.seconds["step"] += perf_counter() - closing
                clock.seconds["forward_backward"] += closing - started
            is_asked = float(self._interrupts.is_requested)
            numbers = setup.ranks.total("end of a window", num_samples, num_micro_batches, is_asked)
            yield Update(window, self.num_updates, lr, int(numbers[0]), int(numbers[1]), clock.total)
            if numbers[2] and setup.ranks.size > 1:
                raise KeyboardInterrupt

    def _windows(self, tail: Tail) -> Iterator[Window]:
        setup = self._setup
        steps = setup.config.num_micro_batches_per_window
        if setup.num_planned_updates is None:  # a DataLoader over a stream has a __len__ that raises; this has none
            return self._accumulator.windows(own_part(setup.loader, setup.share), steps=steps, tail=tail)
        if setup.share.num_ranks > 1:  # which has seen to the tail
            tail = "keep"
        return self._accumulator.windows(setup.loader, steps=steps, tail=tail)

    def schedule(self, validation_loss: float) -> None:
        """Tell a scheduler that waits for the validation loss."""
        if self._setup.config.scheduler.name == "plateau":
            self._accumulator.schedule(validation_loss)
