"""Recovering: when memory runs out, a window goes on with smaller micro-batches; it is made once, or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from gradledger.engine.batches.splitting import Samples, read_samples
from gradledger.engine.batches.staging import Stage
from gradledger.engine.memory.limits import (
    DoesNotFitError,
    Snapshot,
    is_out_of_memory,
    one_sample_does_not_fit,
    release,
)
from gradledger.engine.memory.sizing import BySamples, Cutting, LearnedSize
from gradledger.errors import UserError

if TYPE_CHECKING:
    from gradledger.engine.replaying import LossFunction
    from gradledger.engine.window import Window


class Pieces:
    """What a window's micro-batches are made of, so that they can be made smaller.

    Args:
        sources: The samples as they were handed over: the effective batch, or each micro-batch of a loader.
        current: The samples of each present micro-batch.
        cutting: How samples are cut.
        size: Told of a smaller size, which later updates begin with.
    """

    def __init__(
        self, sources: Sequence[Samples], current: Sequence[Samples], cutting: Cutting, size: LearnedSize
    ) -> None:
        self._sources = sources
        self.current = list(current)
        self._cutting = cutting
        self._size = size

    def lower(self, position: int) -> int:
        """Half the size of a micro-batch that did not fit; later updates begin with it."""
        smaller = -(-self._cutting.size_of(self.current[position]) // 2)
        self._size.lower(smaller)
        return smaller

    def cut_one(self, position: int, size: int) -> None:
        """Cut one micro-batch."""
        self.current[position : position + 1] = self._cutting.cut(self.current[position], size)

    def cut_all(self, size: int) -> None:
        """Cut the whole window anew."""
        self.current = [piece for source in self._sources for piece in self._cutting.cut(source, size)]

    @property
    def positions(self) -> list[Sequence[int] | None]:
        """Where each micro-batch's samples are in the batch that was handed over."""
        return [getattr(piece, "indices", None) for piece in self.current]


class LoaderPieces(Pieces):
    """The same for micro-batches that a loader made; they stay in its order.

    Args:
        window: A window that has not begun.
        size: As for :class:`Pieces`.

    Raises:
        UserError: A micro-batch cannot be split.
    """

    def __init__(self, window: Window, size: LearnedSize) -> None:
        sources = [read_samples(micro_batch) for micro_batch in window._micro_batches]
        super().__init__(sources, sources, BySamples(), size)
        size.raise_wish(max(source.num_samples for source in sources))
        known = window.sample_positions
        self._in_order = None if known is None else [at for positions in known for at in positions or ()]

    @property
    def positions(self) -> list[Sequence[int] | None]:
        """Where each micro-batch's samples are in the window, in the order of the loader."""
        ends = list(accumulate(piece.num_samples for piece in self.current))
        order = self._in_order or range(ends[-1])
        return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]


class Beginning:
    """The beginning of an open window, to go back to: random generators, buffers, no gradient and no loss.

    Args:
        window: Before its first forward.
        only_torch: Leave out Python's and NumPy's random generators.
    """

    def __init__(self, window: Window, *, only_torch: bool) -> None:
        self._window = window
        accumulator = window._accumulator
        self.device = accumulator._account.parameters[0].device
        self._snapshot = Snapshot(accumulator.model, self.device, only_torch=only_torch)

    def is_untouched(self) -> bool:
        """Whether forwards since then used nothing but memory."""
        return self._window._accumulator._statistics is None and self._snapshot.is_current()

    def go_back(self) -> None:
        """Restore all of it."""
        self._snapshot.restore()
        self._window._rewind()
        statistics = self._window._accumulator._statistics
        if statistics is not None:
            statistics.end(commit=False)
            statistics.begin()

    def one_sample_does_not_fit(self, error: BaseException) -> DoesNotFitError:
        """The error of a micro-batch that cannot be made smaller."""
        return one_sample_does_not_fit(error, self.device, list(self._window._accumulator._account.parameters))


class _Failure(NamedTuple):
    in_forward: bool
    error: Exception


class Recovery:
    """Runs the micro-batches of an open window, with smaller ones where memory runs out.

    Where it runs out in a forward and nothing but memory was used so far, only that micro-batch is split. In a
    backward gradients may be half added, and after forwards that drew random numbers or changed buffers a mixed window
    would be one that no size gives: then everything is restored and the window restarts.

    Args:
        window: The open window, before its first micro-batch.
        pieces: Gives what its micro-batches are made of; asked when memory runs out.
    """

    def __init__(self, window: Window, pieces: Callable[[], Pieces]) -> None:
        self._window = window
        self._read_pieces = pieces
        self._pieces: Pieces | None = None
        self._graphs = window._accumulator._graphs
        self._beginning = Beginning(window, only_torch=True)
        self._stage = window._accumulator._stage(window._micro_batches) or Stage(window._micro_batches, None)

    def cut(self, size: int) -> None:
        """Begin with micro-batches of at most ``size``."""
        pieces = self._pieces = self._read_pieces()
        pieces.cut_all(size)
        _repartition(self._window, pieces)

    def run(self, loss_fn: LossFunction) -> None:
        """Run all micro-batches, as often and as small as it takes.

        Args:
            loss_fn: ``loss_fn(model, micro_batch)`` gives the mean loss.

        Raises:
            DoesNotFitError: A micro-batch of one sample does not fit.
        """
        window = self._window
        position = 0
        while position < window.num_micro_batches:
            window._advance(position)
            failure = self._attempt(position, loss_fn)
            if failure is None:
                position += 1
            else:
                position = self._go_on_after(failure, position)

    def run_again(self, loss_fn: LossFunction) -> None:
        """Run all micro-batches once more, as they are; an error is the caller's."""
        for position in range(self._window.num_micro_batches):
            self._window._advance(position)
            self._window.backward(loss_fn(self._window._accumulator.model, self._stage.take(position)))

    def restart(self, error: Exception) -> None:
        """After :meth:`run_again` ran out of memory: back to the window's beginning, cut smaller.

        Raises:
            DoesNotFitError: The micro-batch that did not fit has one sample.
        """
        self._go_on_after(_Failure(False, error), self._window._position)

    def _attempt(self, position: int, loss_fn: LossFunction) -> _Failure | None:
        loss = micro_batch = None
        in_forward = True
        try:
            micro_batch = self._stage.take(position)
            if self._graphs is not None and self._graphs.replay(self._window, micro_batch):
                return None
            loss = loss_fn(self._window._accumulator.model, micro_batch)
            in_forward = False
            self._window.backward(loss)
        except Exception as error:
            if not is_out_of_memory(error):
                self._mention_size(error, position)
                raise
            loss = micro_batch = None
            return _Failure(in_forward, error)
        return None

    def _mention_size(self, error: Exception, position: int) -> None:
        """What only small micro-batches break (BatchNorm wants two samples) should not be a riddle."""
        if self._pieces is not None:
            num_samples = self._pieces.current[position].num_samples
            text = f"{num_samples} sample{'s' if num_samples > 1 else ''}, because memory ran out with more"
            error.add_note(f"gradledger: this micro-batch has {text}")

    def _go_on_after(self, failure: _Failure, position: int) -> int:
        """Make micro-batches smaller. Returns the position to go on at."""
        window = self._window
        if not window._can_shrink(in_forward=failure.in_forward):
            raise _too_late(failure.error)
        pieces = self._known_pieces(failure.error)
        self._stage.clear()
        release(failure.error, self._beginning.device)
        if pieces.current[position].num_samples == 1:
            raise self._beginning.one_sample_does_not_fit(failure.error) from None
        smaller = pieces.lower(position)
        if failure.in_forward and self._beginning.is_untouched():
            pieces.cut_one(position, smaller)
            if _repartition(self._window, pieces):  # not where each micro-batch counts as 1
                return position
        if not window._can_restart():
            raise _too_late(failure.error)
        self._beginning.go_back()
        pieces.cut_all(smaller)
        _repartition(self._window, pieces)
        return 0

    def _known_pieces(self, error: Exception) -> Pieces:
        if self._pieces is None:
            try:
                self._pieces = self._read_pieces()
            except UserError as reason:
                error.add_note(f"gradledger: smaller micro-batches could not be tried: {reason}")
                raise error from None
        return self._pieces


def _too_late(error: Exception) -> Exception:
    """The error itself, where other ranks have this micro-batch's gradient already, or wait in the middle of it."""
    error.add_note(
        "gradledger: smaller micro-batches could not be tried, because the other ranks are reducing the gradients of "
        "this window: begin with a smaller micro_batch_size="
    )
    return error


def _repartition(window: Window, pieces: Pieces) -> bool:
    """Give a window other micro-batches of the same samples. Says whether their total weight is the same."""
    before = window._shares.ahead().total
    known_samples = window._accumulator._weights.known_samples(pieces.current)
    window._repartition([piece.micro_batch() for piece in pieces.current], known_samples)
    window.sample_positions = pieces.positions
    return math.isclose(window._shares.ahead().total, before, rel_tol=1e-12)


def recovery_of_loader(window: Window) -> Recovery:
    """The recovery of a window over a loader, with the size that earlier ones ended with."""
    size = window._accumulator._sizes.of_replays
    recovery = Recovery(window, lambda: LoaderPieces(window, size))
    if size.is_lowered:
        recovery.cut(size.begin())
    return recovery


def explain_out_of_memory(window: Window, error: BaseException, *, is_closing: bool = False) -> None:
    """Where memory ran out in a window that is void now: give it back, and let the error say what would help."""
    if not is_out_of_memory(error):
        return
    release(error, window._accumulator._account.parameters[0].device, is_handled=False)
    if is_closing:
        place = (
            "while a window closed: the optimizer's step did not find the memory that it needs, whatever the size of a"
        )
        advice = "micro-batch. If the step was cut off half-way, go on from a checkpoint"
    else:
        place = f"in micro-batch {window._position + 1} of {window.num_micro_batches} of a window, which is void now:"
        advice = (
            "nothing was stepped, no gradient is left. A loop of your own cannot be run again from here: let the "
            "loader make smaller batches and take more of them (steps=), or hand over the effective batch, "
            "accumulator.update(batch, loss_fn), which goes on with smaller micro-batches by itself"
        )
    error.add_note(f"gradledger: memory ran out {place} {advice}")
