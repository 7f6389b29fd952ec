"""Which micro-batches are replayed: after a window that ran as usual, and after rehearsals beside one that does."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradledger.engine.batches.nesting import tensor_leaves
from gradledger.engine.gradients import total_norm
from gradledger.engine.graphs.capturing import Captured, CudaRecorder, Recorder
from gradledger.engine.graphs.keys import Key, batch_key, function_key, model_key
from gradledger.engine.memory.limits import Snapshot
from gradledger.engine.record import kept_loss
from gradledger.engine.replaying import needs_closure
from gradledger.errors import UserError

if TYPE_CHECKING:
    from gradledger.engine.accumulator import Accumulator
    from gradledger.engine.replaying import LossFunction
    from gradledger.engine.window import Window

_NUM_REHEARSALS = 2
_MOST_REHEARSED = 4
"""Micro-batches of a rehearsal: enough for one that is lost or counted twice to stand out."""

_MOST_STALE = 3


@dataclass(slots=True)
class _Known:
    """What is known of one kind of micro-batch under one loss."""

    key: Key
    loss_fn: LossFunction
    captured: Captured | None = None
    num_rehearsals: int = 0


class GraphedUpdates:
    """The CUDA graph of an accumulator's ``update``.

    The first window of a kind runs as usual, so that sizes are settled and libraries have started. The second one
    begins with the capture and a rehearsal: a few of its micro-batches run as usual and as replays, from the same
    random state and buffers, and their gradients are compared; so does the third. A rehearsal leaves no trace.
    Micro-batches of another shape, such as tails, run as usual within the same window.

    Args:
        accumulator: Whose updates they are.
        recorder: Records on its device.

    Raises:
        UserError: The accumulator does something that cannot be captured.
    """

    def __init__(self, accumulator: Accumulator, recorder: Recorder) -> None:
        self._accumulator: Accumulator = weakref.proxy(accumulator)
        self._recorder = recorder
        self._known: _Known | None = None
        self._num_stale = 0
        self._is_used = False

    def begin(self, window: Window, loss_fn: LossFunction) -> None:
        """A window has opened.

        Args:
            window: Before its first micro-batch.
            loss_fn: Its loss.

        Raises:
            UserError: Forward and backward cannot be captured, or replays come to something else.
        """
        accumulator = self._accumulator
        self._is_used = False
        fence = accumulator._account.fence
        key = (
            batch_key(window._micro_batches[0]),
            function_key(loss_fn),
            model_key(accumulator.model, accumulator._account.parameters),
            None if fence is None else tuple(map(id, fence)),
        )
        if self._known is None or self._known.key != key:
            self._count_stale(key)
            self._known = _Known(key, loss_fn)
            return
        if accumulator._account.is_fence_undecided:  # which takes the graph of a loss
            return
        self._is_used = True
        if self._known.num_rehearsals < _NUM_REHEARSALS:
            self._rehearse(window, loss_fn, self._known)
            self._known.num_rehearsals += 1
            self._num_stale = 0

    def replay(self, window: Window, micro_batch: Any) -> bool:
        """Run a window's present micro-batch, on its device, as a replay. Says whether it could be."""
        known = self._known if self._is_used else None
        if known is None or known.captured is None or batch_key(micro_batch) != known.key[0]:
            return False
        account = self._accumulator._account
        plan = window._plan
        term, seed = window._term(known.captured.loss, None, None, "mean") if plan is None else plan[window._position]
        if seed is None:  # it counts nothing
            return False
        account.check_untouched()
        if not known.captured.is_attached:
            account.unwatch()
            known.captured.attach()
        loss = known.captured.replay(micro_batch, seed)
        account.watch()
        window._terms.append(term)
        window._losses.append(kept_loss(loss))
        return True

    def _count_stale(self, key: Key) -> None:
        """Notice that something else than the shape changes from update to update."""
        known = self._known
        if known is None or known.key[0] != key[0]:
            self._num_stale = 0
            return
        self._num_stale += 1
        if self._num_stale < _MOST_STALE:
            return
        is_loss = known.key[1] != key[1]
        what = "the loss function, or a value in it," if is_loss else "the model (its tensors, modes or trained parts)"
        raise UserError(
            f"cuda_graph=True: {what} has changed with each of the last {_MOST_STALE} updates, so that no graph can be "
            "replayed: let it be the same, pass what changes as a tensor of the batch, or leave cuda_graph= out"
        )

    def _rehearse(self, window: Window, loss_fn: LossFunction, known: _Known) -> None:
        accumulator = self._accumulator
        account, model = accumulator._account, accumulator.model
        alike = [each for each in window._micro_batches if batch_key(each) == known.key[0]]
        rehearsed = list(map(self._staged, alike[:_MOST_REHEARSED]))
        snapshot = Snapshot(model, account.parameters[0].device)

        def compute(micro_batch: Any) -> Tensor:
            with self._uncached_autocast():
                return loss_fn(model, micro_batch)

        def send_back(loss: Tensor, seed: Tensor) -> None:
            window._add_gradient(loss, seed, retain_graph=False)

        for micro_batch in rehearsed:
            loss = compute(micro_batch)
            send_back(loss, torch.ones_like(loss))
        del loss
        usual = {parameter: parameter.grad for parameter in account.parameters if parameter.grad is not None}
        snapshot.restore()
        try:
            if known.captured is None:
                _check_capturable(usual, rehearsed[0], self._recorder.device_type)
                account.clear_gradients()
                known.captured = self._capture(rehearsed[0], compute, send_back, usual)
                snapshot.restore()
            account.clear_gradients()
            known.captured.attach()
            for micro_batch in rehearsed:
                known.captured.replay(micro_batch, torch.ones_like(known.captured.loss))
            _compare(usual, {parameter: parameter.grad for parameter in usual})
        finally:
            account.clear_gradients()
            snapshot.restore()

    def _capture(self, micro_batch: Any, compute: Any, send_back: Any, usual: dict[Tensor, Tensor]) -> Captured:
        try:
            return Captured(self._recorder, micro_batch, compute, send_back, usual)
        except RuntimeError as error:
            raise UserError(
                f"cuda_graph=True: forward and backward of a micro-batch cannot be captured: {error}. A graph cannot "
                "wait for values (.item(), a comparison of tensors in an if), copy from ordinary host memory, or "
                "change shapes, and it needs memory of its own: change that, or leave cuda_graph= out"
            ) from error

    def _staged(self, micro_batch: Any) -> Any:
        stage = self._accumulator._stage([micro_batch])
        return micro_batch if stage is None else stage.take(0)

    def _uncached_autocast(self) -> AbstractContextManager[Any]:
        """Autocast as in the window, but with no casts of parameters from before, which a graph would keep for ever."""
        precision = self._accumulator._precision
        if precision.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(precision.device_type, dtype=precision.autocast_dtype, cache_enabled=False)


def graphed_updates(accumulator: Accumulator, choice: Any) -> GraphedUpdates | None:
    """The graph of an accumulator's updates; None where it is not to have one.

    Raises:
        UserError: The choice is no bool, the model is on no CUDA device, or something cannot be captured.
    """
    if not isinstance(choice, bool):
        raise UserError(f"cuda_graph={choice!r} must be True or False")
    if not choice:
        return None
    device = accumulator._account.parameters[0].device
    if device.type != "cuda":
        raise UserError(f"cuda_graph=True needs a model on a CUDA device, and this one is on {device}: leave it out")
    check_supported(accumulator)
    return GraphedUpdates(accumulator, CudaRecorder(device))


def check_supported(accumulator: Accumulator) -> None:
    """Refuse what Python has to do between micro-batches, or while one runs.

    Raises:
        UserError: The accumulator asks for such a thing.
    """
    refused = {
        "non_finite='drop-micro-batch'": accumulator._policy.non_finite == "drop-micro-batch",
        "batch_norm='pooled'": accumulator._statistics is not None,
        "checkpointing=": accumulator._checkpointing is not None,
        "offload=": accumulator._account.host_gradients is not None,
        "several ranks": accumulator._together is not None,
        f"{type(accumulator.optimizer).__name__}, which runs the loss again": needs_closure(accumulator.optimizer),
    }
    for what, is_asked in refused.items():
        if is_asked:
            raise UserError(f"cuda_graph=True cannot be combined with {what}: leave one of the two out")


def _check_capturable(gradients: dict[Tensor, Tensor], micro_batch: Any, device_type: str) -> None:
    elsewhere = [path for path, leaf in tensor_leaves(micro_batch) if leaf.device.type != device_type]
    if elsewhere:
        raise UserError(
            f"cuda_graph=True: {elsewhere[0]} is not on the device when the loss is computed, and a graph cannot bring "
            "it there: give the accumulator device="
        )
    if any(gradient.layout != torch.strided for gradient in gradients.values()):
        raise UserError("cuda_graph=True: a gradient is sparse, so it has no fixed address: leave cuda_graph= out")


def _compare(usual: dict[Tensor, Tensor], replayed: dict[Tensor, Tensor | None]) -> None:
    """Replays must add up to what was computed as usual, to rounding; what is lost or added twice is far beyond it."""
    gaps = []
    for parameter, gradient in usual.items():
        found = replayed[parameter]
        gaps.append(gradient if found is None else found - gradient)
    gap, norm = float(total_norm(gaps)), float(total_norm(list(usual.values())))
    resolution = max(torch.finfo(gradient.dtype).eps for gradient in usual.values())
    if not gap <= max(1e-3, 8 * resolution) * norm:
        raise UserError(
            f"cuda_graph=True: replays add up to a gradient that is {gap / max(norm, 1e-38):.2g} of its norm away from "
            "the one that is computed as usual, so the captured graph does not do what the model does (random choices "
            "in Python, state outside of buffers?): leave cuda_graph= out"
        )
