"""One pass over the data, with the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from gradledger.engine import Accumulator, Window
from gradledger.ledger import Ledger
from gradledger.train.config import Tail
from gradledger.train.interrupts import NOTHING_ASKED, Asked, Interrupts
from gradledger.train.loading import Reading
from gradledger.train.memory import PeakMemory
from gradledger.train.setup import Setup

Pause = Callable[[], None]
"""Called between micro-batches, where a run can be saved and stopped."""


class _Tally(NamedTuple):
    """What a window held, of this rank."""

    num_samples: int = 0
    num_micro_batches: int = 0


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
    asked: Asked = NOTHING_ASKED


class Clock:
    """Adds up where the time goes."""

    def __init__(self) -> None:
        self.start()
        self.seconds = {"data": 0.0, "forward_backward": 0.0, "step": 0.0}

    def start(self) -> None:
        """Let :attr:`total` begin at 0."""
        self._started = perf_counter()

    def state_dict(self) -> dict[str, float]:
        """The seconds so far."""
        return {"total": self.total, **self.seconds}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from earlier seconds."""
        self._started = perf_counter() - state["total"]
        self.seconds = {part: state[part] for part in self.seconds}

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

    @property
    def num_done_in_window(self) -> int | None:
        """Micro-batches done with in the open window; None between windows."""
        ...

    def one_pass(self, *, epoch: int, tail: Tail, pause: Pause) -> Iterator[Update]:
        """Train on each sample once; yields as windows close, and calls ``pause`` between their micro-batches."""
        ...

    def schedule(self, validation_loss: float) -> None:
        """The validation loss is known."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What training goes on from, except the model; inside a window, after a micro-batch is done with."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        ...

    def take_over(self, num_read: int) -> None:
        """After a state of another number of ranks was loaded: go on behind so many of this rank's micro-batches."""
        ...


class EnginePasses:
    """Passes through :class:`gradledger.Accumulator`."""

    def __init__(self, setup: Setup, clock: Clock, memory: PeakMemory, interrupts: Interrupts) -> None:
        config = setup.config
        self._setup, self._clock, self._memory, self._interrupts = setup, clock, memory, interrupts
        self._reading = Reading(setup.loader, setup.share, config.seed)
        self._tally: _Tally | None = None
        self._saved_tally: _Tally | None = None
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
            checkpointing=config.checkpointing,
            offload=config.offload,
            compile=config.compile,
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

    @property
    def num_done_in_window(self) -> int | None:
        """Micro-batches done with in the open window; None between windows."""
        return None if self._tally is None else self._tally.num_micro_batches

    def one_pass(self, *, epoch: int, tail: Tail, pause: Pause) -> Iterator[Update]:
        """Train on each sample once; yields as windows close, and calls ``pause`` between their micro-batches."""
        setup, clock = self._setup, self._clock
        self._reading.begin(epoch)
        windows = self._windows(tail)
        while True:
            with clock.measure("data"):
                window = next(windows, None)
            if window is None:
                break
            lr = float(setup.optimizer.param_groups[0]["lr"])
            with self._memory.window():
                tally = self._train_window(window, pause)
            numbers = setup.ranks.total("end of a window", *tally, *self._interrupts.asked)
            asked = Asked(*map(bool, numbers[2:]))
            yield Update(window, self.num_updates, lr, int(numbers[0]), int(numbers[1]), clock.total, asked)
        self._reading.end()

    def _train_window(self, window: Window, pause: Pause) -> _Tally:
        setup, clock = self._setup, self._clock
        tally, self._saved_tally = self._saved_tally or _Tally(), None
        started = perf_counter()
        try:
            with window:
                for inputs, labels in window:
                    window.backward(setup.loss(setup.model(inputs), labels))
                    if not window.is_padding:
                        tally = self._tally = _Tally(tally.num_samples + len(labels), tally.num_micro_batches + 1)
                    if setup.ranks.size == 1:  # several ranks are interrupted between windows, all at once
                        pause()
                closing = perf_counter()
        finally:
            self._tally = None
        clock.seconds["step"] += perf_counter() - closing
        clock.seconds["forward_backward"] += closing - started
        return tally

    def _windows(self, tail: Tail) -> Iterator[Window]:
        steps = self._setup.config.num_micro_batches_per_window
        if (
            self._setup.share.num_ranks > 1 and self._setup.num_planned_updates is not None
        ):  # which has seen to the tail
            tail = "keep"
        return self._accumulator.windows(self._reading, steps=steps, tail=tail)

    def state_dict(self) -> dict[str, Any]:
        """What training goes on from, except the model."""
        return {
            "accumulator": self._accumulator.state_dict(),
            "num_read": self._reading.num_read,
            "tally": None if self._tally is None else tuple(self._tally),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._accumulator.load_state_dict(state["accumulator"])
        self._reading.num_read = state["num_read"]
        self._saved_tally = None if state["tally"] is None else _Tally(*state["tally"])

    def take_over(self, num_read: int) -> None:
        """After a state of another number of ranks was loaded: go on behind so many of this rank's micro-batches."""
        self._reading.num_read = num_read

    def schedule(self, validation_loss: float) -> None:
        """Tell a scheduler that waits for the validation loss."""
        if self._setup.config.scheduler.name == "plateau":
            self._accumulator.schedule(validation_loss)
