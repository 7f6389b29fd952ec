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
from gradledger.engine.memory.sizing import Cutting, LearnedSize, MemoryModel, measure_curve
from gradledger.engine.replaying import LossFunction

if TYPE_CHECKING:
    from gradledger.engine.accumulator import Accumulator

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
        if known is None or (known.size == known.wished and total > 2 * known.measured_total > 0):
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
        available = available_bytes(self._accumulator._account.parameters[0].device)
        found = None if key is None else _still_fitting(recall(key), available)
        if found is None:
            found = self._measure(samples, loss_fn, cutting, available)
            if key is not None:
                remember(key, found)
        chosen = found

        def lowered(size: int) -> None:
            if key is not None:
                remember(key, replace(chosen, size=size))

        learned = LearnedSize(min(found.size, total), lowered)
        learned.measured_total = total
        return learned

    def _measure(self, samples: Samples, loss_fn: LossFunction, cutting: Cutting, available: int) -> RememberedSize:
        accumulator = self._accumulator
        parameters, precision = accumulator._account.parameters, accumulator._precision
        precision.prepare(parameters)
        if accumulator._compiled is not None and samples.num_samples > 1:
            accumulator._compiled.expect_several()
        try:
            curve = measure_curve(
                Bench(
                    accumulator.model,
                    parameters,
                    _staged(loss_fn, accumulator),
                    precision.autocast,
                    accumulator._saving,
                    accumulator._keeping,
                ),
                samples,
                cutting,
                available=available,
                state_bytes=optimizer_bytes(accumulator.optimizer)[0],
            )
        finally:
            precision.release(parameters)
        if curve is None:  # let the update itself say what does not fit
            return RememberedSize(1, 0.0, 0.0)
        model = curve.model
        return RememberedSize(curve.best().size, model.fixed_bytes, model.bytes_per_size)

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


def _still_fitting(found: RememberedSize | None, available: int) -> RememberedSize | None:
    """A remembered size, or the largest that fits if there is less memory now; None where it must be measured."""
    if found is None:
        return None
    model = MemoryModel(found.fixed_bytes, found.bytes_per_size)
    size = min(found.size, model.largest_fitting(available))
    return replace(found, size=size) if size >= 1 else None


def _staged(loss_fn: LossFunction, accumulator: Accumulator) -> LossFunction:
    """The loss of a micro-batch that is brought to the device first, and announced."""

    def staged_loss(model: nn.Module, micro_batch: Any) -> Tensor:
        stage = accumulator._stage([micro_batch])
        return loss_fn(model, micro_batch if stage is None else stage.take(0))

    return staged_loss
