"""The engine's side of the ledger: one block a window, expanded to entries when somebody reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradledger.ledger import (
    Adjust,
    Backward,
    Clip,
    Entry,
    Reduction,
    ScalerUpdate,
    Schedule,
    Step,
    Unscale,
    Zero,
)


class Term(NamedTuple):
    """One backward of a window: the micro-batch's position and the coefficient that its gradient was added with."""

    position: int
    coefficient: float | Tensor
    unit: str
    weight: float | Tensor | None
    reduction: Reduction


class WindowRecord:
    """What a window did, in the shape of a ledger block.

    Args:
        account: The account's name.
        first_micro_batch: Micro-batches of the account before this window.
        update: Updates of the account before this window.
        terms: The window's backward passes.
        losses: Their losses, numbers or values on a device.
        cleared: Older gradients were cleared when it opened.
    """

    factor: float | Tensor | None = None
    norm: float | Tensor | None = None
    clip: tuple[str, float] | None = None
    has_scaler = False
    has_batch_norm = False
    is_void = False
    is_stepped = False
    is_skipped = False
    learning_rate: Any = None
    scheduler: str | None = None

    def __init__(
        self,
        account: str,
        first_micro_batch: int,
        update: int,
        terms: list[Term],
        losses: list[float | Tensor],
        cleared: bool,
    ) -> None:
        self._account = account
        self._first_micro_batch = first_micro_batch
        self._update = update
        self.terms = terms
        self.losses = losses
        self.cleared = cleared

    @property
    def num_entries(self) -> int:
        """The number of entries that the block expands to, without expanding it."""
        num_entries = self.cleared + len(self.terms)
        if self.is_stepped:
            choices = (self.factor is not None, self.clip is not None, self.scheduler is not None)
            return num_entries + sum(choices) + 2 * self.has_scaler + 2
        return num_entries + bool(self.terms)

    def entries(self) -> Iterator[Entry]:
        """The entries, with their numbers fetched from the device."""
        losses = iter(read_losses(self.losses))
        terms = iter(self.terms)
        micro_batch = self._first_micro_batch
        update = self._update
        for kind in self._kinds():
            details: dict[str, Any] = {}
            if kind is Backward:
                term = next(terms)
                micro_batch = self._first_micro_batch + term.position + 1
                details = {
                    "weight": _number(term.weight),
                    "unit": term.unit,
                    "scale": _number(term.coefficient),
                    "reduction": term.reduction,
                    "loss": next(losses),
                    "batch_norm": self.has_batch_norm or None,
                }
            elif kind is Adjust:
                details = {"factor": _number(self.factor)}
            elif kind is Clip and self.clip is not None:
                details = {"by": self.clip[0], "limit": self.clip[1], "norm": _number(self.norm)}
            elif kind is Step:
                details = {"skipped": self.is_skipped, "scaler": self.has_scaler, "norm": _number(self.norm)}
            elif kind is Schedule:
                details = {"lr": _number(self.learning_rate), "scheduler": self.scheduler}
            elif kind is Zero:
                details = {"void": self.is_void and micro_batch > self._first_micro_batch}
            yield kind(account=self._account, micro_batch=micro_batch, update=update, **details)
            if kind is Step and not self.is_skipped:
                update += 1

    def _kinds(self) -> Iterator[type[Entry]]:
        if self.cleared:
            yield Zero
        for _ in self.terms:
            yield Backward
        if self.is_stepped:
            if self.factor is not None:
                yield Adjust
            if self.has_scaler:
                yield Unscale
            if self.clip is not None:
                yield Clip
            yield Step
            if self.has_scaler:
                yield ScalerUpdate
            if self.scheduler is not None:
                yield Schedule
            yield Zero
        elif self.terms:
            yield Zero


def read_losses(losses: Sequence[float | Tensor]) -> list[float]:
    """The losses as numbers, those on a device fetched at once."""
    fetched = iter(fetch_numbers([loss for loss in losses if isinstance(loss, Tensor)]))
    return [next(fetched) if isinstance(loss, Tensor) else loss for loss in losses]


def fetch_numbers(values: Sequence[Tensor]) -> list[float]:
    """The numbers that one-element tensors hold, fetched from their device at once."""
    return [float(number) for number in torch.stack([value.reshape(()) for value in values]).tolist()] if values else []


def kept_loss(loss: Tensor) -> float | Tensor:
    """A loss to remember: a number where reading it is free, else the value on its device, without its graph."""
    return loss.item() if loss.is_cpu else loss.detach().reshape(())


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
