"""Fitting an update into memory: the right micro-batch size beforehand, smaller micro-batches when memory runs out."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gradledger.engine.batches.splitting import Samples, check_size
from gradledger.engine.batches.staging import Stage
from gradledger.engine.memory.limits import (
    Snapshot,
    available_bytes,
    is_out_of_memory,
    one_sample_does_not_fit,
    release,
)
from gradledger.engine.memory.measuring import Bench, optimizer_bytes
from gradledger.engine.memory.remembering import RememberedSize, cache_key, recall, remember
from gradledger.engine.memory.sizing import Cutting, LearnedSize, MemoryModel, measure_curve
from gradledger.engine.replaying import LossFunction

if TYPE_CHECKING:
    from gradledger.engine.accumulator import Accumulator
    from gradledger.engine.window import Window

Size = int | Literal["auto"]


class Sizes:
    """The micro-batch sizes that an accumulator has learned, per kind of batch.

    Args:
        accumulator: Whose updates they are for.
    """

    def __init__(self, accumulator: Accumulator) -> None:
        # A proxy: a forgotten accumulator is let go at once, not when cycles are collected.
        self._accumulator: Accumulator = weakref.proxy(accumulator)
        self._learned: dict[Any, LearnedSize] = {}

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
        try:
            curve = measure_curve(
                Bench(accumulator.model, parameters, on_device(loss_fn, accumulator._device), precision.autocast),
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


def on_device(loss_fn: LossFunction, device: Any) -> LossFunction:
    """The loss of a micro-batch that is moved to the device first."""
    if device is None:
        return loss_fn
    return lambda model, micro_batch: loss_fn(model, Stage([micro_batch], device).take(0))


class _Failure(NamedTuple):
    in_forward: bool
    error: Exception


def run_fitted(
    window: Window, samples: Samples, pieces: list[Samples], loss_fn: LossFunction, cutting: Cutting, size: LearnedSize
) -> None:
    """Run all micro-batches of an open window; when memory runs out, go on with smaller ones.

    Where it runs out in a forward and nothing but memory was used so far, only that micro-batch is split. In a
    backward gradients may be half added, and after forwards that drew random numbers or changed buffers a mixed window
    would be one that no size gives: then everything is restored and the window restarts.

    Args:
        window: The open window, with the pieces as its micro-batches.
        samples: The effective batch.
        pieces: What the window's micro-batches were made of.
        loss_fn: ``loss_fn(model, micro_batch)`` gives the mean loss.
        cutting: How the samples were cut.
        size: Told of a smaller size, which later updates begin with.

    Raises:
        DoesNotFitError: A micro-batch of one sample does not fit.
    """
    accumulator = window._accumulator
    account = accumulator._account
    device = account.parameters[0].device
    snapshot = Snapshot(accumulator.model, device, only_torch=True)
    stage = Stage(window._micro_batches, accumulator._device)
    position = 0
    while position < len(pieces):
        window._advance(position)
        failure = _attempt(window, lambda at=position: stage.take(at), loss_fn)  # type: ignore[misc]
        if failure is None:
            position += 1
            continue
        stage.clear()
        release(failure.error, device)
        piece = pieces[position]
        if piece.num_samples == 1:
            raise one_sample_does_not_fit(failure.error, device, list(account.parameters)) from None
        smaller = -(-cutting.size_of(piece) // 2)
        size.lower(smaller)
        if failure.in_forward and accumulator._statistics is None and snapshot.is_current():
            pieces[position : position + 1] = cutting.cut(piece, smaller)
        else:
            snapshot.restore()
            window._rewind()
            if accumulator._statistics is not None:
                accumulator._statistics.end(commit=False)
                accumulator._statistics.begin()
            pieces[:] = cutting.cut(samples, smaller)
            position = 0
        window._repartition([piece.micro_batch() for piece in pieces], accumulator._weights.known_samples(pieces))
        window.sample_positions = [getattr(piece, "indices", None) for piece in pieces]


def _attempt(window: Window, take: Callable[[], Any], loss_fn: LossFunction) -> _Failure | None:
    loss = None
    in_forward = True
    try:
        loss = loss_fn(window._accumulator.model, take())
        in_forward = False
        window.backward(loss)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        loss = None
        return _Failure(in_forward, error)
    return None
