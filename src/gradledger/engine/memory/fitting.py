"""Fitting an update into memory: the right micro-batch size, measured, remembered, and lowered where it has to be."""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from gradledger.engine.batches.splitting import Samples, check_size
from gradledger.engine.memory.limits import available_bytes
from gradledger.engine.memory.measuring import Bench, optimizer_bytes
from gradledger.engine.memory.remembering import RememberedSize, cache_key, recall, remember
from gradledger.engine.memory.sizing import USABLE, Cutting, LearnedSize, MemoryModel, measure_curve
from gradledger.engine.replaying import LossFunction

if TYPE_CHECKING:
    from gradledger.engine.accumulator import Accumulator

_MUCH_MORE = 1.5
"""With so much more room than a size was chosen for, it is measured again."""

Size = int | Literal["auto"]


class Sizes:
    """The micro-batch sizes that an accumulator has learned, per kind of batch.

    Args:
        accumulator: Whose updates they are for.

    Attributes:
        of_replays: The size for replayed windows over a loader.
    """

    def __init__(self, accumulator: Accumulator) -> None:
        # A proxy: a forgotten accumulator is let go at once, not when cycles are collected.
        self._accumulator: Accumulator = weakref.proxy(accumulator)
        self._learned: dict[Hashable, LearnedSize] = {}
        self.of_replays = LearnedSize(1)

    def learned(
        self, samples: Samples, wished: Size, loss_fn: LossFunction, cutting: Cutting, *, cache: bool
    ) -> LearnedSize:
        """The size for a batch: the wished one, or the best measured one, or less where memory ran out before."""
        if wished != "auto":
            check_size(wished)
        kind = (wished, type(cutting), samples.signature())
        total = cutting.size_of(samples) if wished == "auto" else 0
        known = self._learned.get(kind)
        if known is None or self._is_outgrown(known, total):
            known = self._find(samples, wished, total, loss_fn, cutting, cache=cache)
            self._learned[kind] = known
        return known

    def given(self, kind: Hashable, wished: int) -> LearnedSize:
        """The size for something whose size is given: the wished one, or less where memory ran out before."""
        return self._learned.setdefault((kind, wished), LearnedSize(wished))

    def _find(
        self, samples: Samples, wished: Size, total: int, loss_fn: LossFunction, cutting: Cutting, *, cache: bool
    ) -> LearnedSize:
        if wished != "auto":
            return LearnedSize(wished)
        key = self._key(samples, total, loss_fn, cutting) if cache else None
        room = self._room()
        found = None if key is None else _still_right(recall(key), room)
        if found is None:
            found = self._measure(samples, loss_fn, cutting, room)
            if found is None:  # let the update itself say what does not fit, and keep nothing for later runs
                return LearnedSize(1, limit_bytes=room)
            if key is not None:
                remember(key, found)
        chosen, size = found, min(found.size, MemoryModel.of(found).largest_fitting(room) or 1)

        def lowered(size: int) -> None:
            if key is not None:
                remember(key, replace(chosen, size=size, limit_bytes=room))

        is_limited = found.limit_bytes is not None or size < found.size
        learned = LearnedSize(min(size, total), lowered, limit_bytes=room if is_limited else None)
        learned.measured_total = total
        return learned

    def _is_outgrown(self, known: LearnedSize, total: int) -> bool:
        """Whether a measured size has become a matter of the past: the batch has grown, or memory is free again."""
        if known.measured_total == 0 or known.is_lowered:
            return False
        return total > 2 * known.measured_total or (known.is_due and _is_much_more(self._room(), known.limit_bytes))

    def _room(self) -> float:
        """Bytes that a forward and backward may take."""
        available = available_bytes(self._accumulator._account.parameters[0].device)
        return available * USABLE - optimizer_bytes(self._accumulator.optimizer)[0]

    def _measure(self, samples: Samples, loss_fn: LossFunction, cutting: Cutting, room: float) -> RememberedSize | None:
        accumulator = self._accumulator
        together = accumulator._together
        model = accumulator.model if together is None else together.measurable(accumulator.model)
        parameters, precision = accumulator._account.parameters, accumulator._precision
        precision.prepare(parameters)
        if accumulator._compiled is not None and samples.num_samples > 1:
            accumulator._compiled.expect_several()
        bench = Bench(
            model,
            parameters,
            _staged(loss_fn, accumulator),
            precision.autocast,
            accumulator._saving,
            accumulator._keeping,
        )
        try:
            curve = measure_curve(bench, samples, cutting, limit=room)
        finally:
            precision.release(parameters)
        if curve is None:
            return None
        limit = curve.limit_bytes if curve.wants_more else None
        return RememberedSize(curve.best().size, curve.model.fixed_bytes, curve.model.bytes_per_size, limit)

    def _key(self, samples: Samples, total: int, loss_fn: LossFunction, cutting: Cutting) -> str:
        accumulator = self._accumulator
        return cache_key(
            accumulator.model,
            accumulator._account.parameters,
            type(accumulator.optimizer).__qualname__,
            accumulator._precision.name,
            accumulator._precision.accumulate_dtype,
            accumulator._checkpointing and accumulator._checkpointing.names,
            accumulator._account.host_gradients is not None,
            accumulator._compiled is not None,
            getattr(loss_fn, "__qualname__", type(loss_fn).__qualname__),
            type(cutting).__name__,
            samples.signature(),
            total.bit_length(),
        )


def _still_right(found: RememberedSize | None, room: float) -> RememberedSize | None:
    """A remembered size; None where nothing fits by its model, or there is room to try a larger one."""
    if found is None or MemoryModel.of(found).largest_fitting(room) < 1 or _is_much_more(room, found.limit_bytes):
        return None
    return found


def _is_much_more(room: float, limit_bytes: float | None) -> bool:
    return limit_bytes is not None and room > _MUCH_MORE * limit_bytes


def _staged(loss_fn: LossFunction, accumulator: Accumulator) -> LossFunction:
    """The loss of a micro-batch that is brought to the device first, and announced."""

    def staged_loss(model: nn.Module, micro_batch: Any) -> Tensor:
        stage = accumulator._stage([micro_batch])
        return loss_fn(model, micro_batch if stage is None else stage.take(0))

    return staged_loss
