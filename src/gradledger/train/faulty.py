"""Loops with the usual mistakes, to compare right ones with. They keep a ledger, so the rules name each mistake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from torch.nn.utils import get_total_norm
from torch.optim.lr_scheduler import LRScheduler

from gradledger.ledger import Backward, EpochEnd, EpochStart, Ledger, Schedule, Step, Zero
from gradledger.train.config import Tail
from gradledger.train.interrupts import Interrupts
from gradledger.train.loading import set_epoch
from gradledger.train.memory import PeakMemory
from gradledger.train.passes import Clock, Pause, Update
from gradledger.train.setup import Setup

Fault = Literal["never-zeroed", "zeroed-inside", "not-normalized", "tail-mis-scaled", "tail-dropped"]


@dataclass(frozen=True, slots=True)
class _Window:
    loss: float
    grad_norm: float | None
    skipped: bool = False


class FaultyPasses:
    """Passes over the data by a plain loop that makes one mistake.

    Args:
        fault: The mistake.
        setup: What is trained; clipping and mixed precision are left out.
        clock: Where the time goes.
        memory: Measures the first windows.
        interrupts: What signals ask for; it is looked at between micro-batches.
    """

    num_done_in_window = None

    def __init__(self, fault: Fault, setup: Setup, clock: Clock, memory: PeakMemory, interrupts: Interrupts) -> None:
        self._fault = fault
        self._setup, self._clock, self._memory = setup, clock, memory
        self._num_epochs = 0
        self.ledger = Ledger()
        self.num_updates = 0
        self.num_micro_batches = 0
        self.reduction: str | None = None  # one process

    def schedule(self, validation_loss: float) -> None:
        """Nothing waits for the validation loss here."""

    def state_dict(self) -> dict[str, Any]:
        """There is none: a mistake is shown, not kept.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As for :meth:`state_dict`."""
        raise NotImplementedError

    def take_over(self, num_read: int) -> None:
        """As for :meth:`state_dict`."""
        raise NotImplementedError

    def one_pass(self, *, epoch: int, tail: Tail, pause: Pause) -> Iterator[Update]:
        """Train on each sample once, mistaken."""
        loader = self._setup.loader
        set_epoch(loader, epoch)
        self._write(EpochStart, epoch=self._num_epochs)
        batches = iter(loader)
        while micro_batches := list(islice(batches, self._setup.config.num_micro_batches_per_window)):
            with self._memory.window():
                update = self._window(micro_batches, pause)
            if update is not None:
                yield update
        self._write(EpochEnd, epoch=self._num_epochs)
        self._num_epochs += 1

    def _window(self, micro_batches: list[Any], pause: Pause) -> Update | None:
        setup, steps = self._setup, self._setup.config.num_micro_batches_per_window
        is_tail = len(micro_batches) < steps
        weights = [self._weight(micro_batch) for micro_batch in micro_batches]
        total = sum(weights)
        window_loss = 0.0
        with self._clock.measure("forward_backward"):
            for index, ((inputs, labels), weight) in enumerate(zip(micro_batches, weights, strict=True)):
                pause()
                if self._fault == "zeroed-inside" or (index == 0 and self._fault == "tail-dropped"):
                    self._zero()
                loss = setup.loss(setup.model(inputs.to(setup.device)), labels.to(setup.device))
                scale = {"not-normalized": 1.0, "tail-mis-scaled": 1 / steps}.get(self._fault, weight / total)
                (loss * scale).backward()  # type: ignore[no-untyped-call]
                window_loss += loss.item() * weight / total
                self.num_micro_batches += 1
                self._write(Backward, weight=weight, scale=scale, reduction="mean", loss=loss.item())
        if is_tail and self._fault == "tail-dropped":
            return None
        num_samples = sum(len(labels) for _, labels in micro_batches)
        return self._step(window_loss, len(micro_batches), num_samples)

    def _step(self, window_loss: float, num_micro_batches: int, num_samples: int) -> Update:
        setup = self._setup
        lr = float(setup.optimizer.param_groups[0]["lr"])
        with self._clock.measure("step"):
            norm = get_total_norm([p.grad for p in setup.model.parameters() if p.grad is not None]).item()
            setup.optimizer.step()
        self._write(Step, norm=norm)
        self.num_updates += 1
        if isinstance(setup.scheduler, LRScheduler):
            setup.scheduler.step()
            self._write(Schedule, lr=float(setup.optimizer.param_groups[0]["lr"]))
        if self._fault != "never-zeroed":
            self._zero()
        window = _Window(window_loss, norm)
        return Update(window, self.num_updates, lr, num_samples, num_micro_batches, self._clock.total)

    def _zero(self) -> None:
        self._setup.optimizer.zero_grad()  # gradledger: ignore[discarded-gradient]  # the fault "zeroed-inside"
        self._write(Zero)

    def _weight(self, micro_batch: Any) -> float:
        return float(len(micro_batch[1]) if self._setup.weight is None else self._setup.weight(micro_batch))

    def _write(self, kind: Any, **details: Any) -> None:
        self.ledger.append(kind(micro_batch=self.num_micro_batches, update=self.num_updates, **details))
