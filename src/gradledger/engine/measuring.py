"""Measuring: the bytes and seconds of a micro-batch's forward and backward, without leaving a trace."""

from __future__ import annotations

import copy
import time
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradledger.engine.memory import Snapshot, is_out_of_memory, release
from gradledger.engine.replaying import LossFunction

_ENOUGH_SECONDS = 0.06
_MAX_REPEATS = 5

Measured = TypeVar("Measured")


class MemoryTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Counts the bytes of tensors made while it is active, now and at the peak; works on fake tensors too.

    Memory that one kernel allocates and frees within itself is not seen.

    Example:
        >>> import torch
        >>> with MemoryTracker() as tracker:
        ...     kept = torch.zeros(1000)
        ...     _ = kept + kept
        >>> tracker.current_bytes, tracker.peak_bytes
        (8000, 8000)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current_bytes = 0
        self.peak_bytes = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count the storages that are new."""
        kwargs = kwargs or {}
        for given in tree_leaves((args, kwargs)):
            if isinstance(given, Tensor):
                self._see(given, is_new=False)
        result = func(*args, **kwargs)
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                self._see(made, is_new=True)
        return result

    def _see(self, tensor: Tensor, *, is_new: bool) -> None:
        try:
            storage = tensor.untyped_storage()
        except NotImplementedError:  # sparse and other layouts without one
            return
        key = id(storage)
        if key in self._known:
            return
        num_bytes = storage.nbytes() if is_new else 0

        def forget(_: Any) -> None:
            self._known.pop(key, None)
            self.current_bytes -= num_bytes

        self._known[key] = weakref.ref(storage, forget)
        self.current_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.current_bytes)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a forward and backward of one micro-batch takes.

    Args:
        size: The micro-batch's size: samples, or padded tokens.
        peak_bytes: Bytes beyond what was there before, gradients included.
        seconds: The fastest of the measured runs.
    """

    size: int
    peak_bytes: int
    seconds: float

    @property
    def size_per_second(self) -> float:
        """The throughput."""
        return self.size / self.seconds


class Bench:
    """Runs forwards and backwards for their cost; gradients, buffers and random generators stay as they were.

    Args:
        model: The model.
        parameters: Whose gradients are computed.
        loss_fn: ``loss_fn(model, micro_batch)``.
        autocast: Makes the context that forwards run in.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[Tensor],
        loss_fn: LossFunction,
        autocast: Callable[[], AbstractContextManager[Any] | None] = lambda: None,
    ) -> None:
        self._model = model
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._loss_fn = loss_fn
        self._autocast = autocast
        self.device = self._parameters[0].device

    def peak_bytes(self, micro_batch: Any) -> int | None:
        """The most bytes that are in use at once, beyond those before; None where they do not fit."""
        return self._undone(lambda: self._measured_bytes(micro_batch))

    def seconds(self, micro_batch: Any) -> float | None:
        """The seconds of the fastest of a few runs; None where they do not fit."""
        return self._undone(lambda: self._measured_seconds(micro_batch))

    def _measured_bytes(self, micro_batch: Any) -> int:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            self._run(micro_batch)
            return int(torch.cuda.max_memory_allocated(self.device)) - int(before)
        with MemoryTracker() as tracker:
            self._run(micro_batch)
        return int(tracker.peak_bytes)

    def _measured_seconds(self, micro_batch: Any) -> float:
        fastest, spent = float("inf"), 0.0
        for _ in range(_MAX_REPEATS):
            start = time.perf_counter()
            self._run(micro_batch)
            if self.device.type != "cpu":
                torch.get_device_module(self.device).synchronize(self.device)
            elapsed = time.perf_counter() - start
            self._clear()
            fastest, spent = min(fastest, elapsed), spent + elapsed
            if spent > _ENOUGH_SECONDS:
                break
        return fastest

    def _run(self, micro_batch: Any) -> None:
        with self._autocast() or nullcontext():
            loss = self._loss_fn(self._model, micro_batch)
        torch.autograd.backward(loss, inputs=self._parameters)

    def _undone(self, measure: Callable[[], Measured]) -> Measured | None:
        snapshot = Snapshot(self._model, self.device)
        held = [parameter.grad for parameter in self._parameters]
        self._clear()
        try:
            return measure()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            release(error, self.device)
            return None
        finally:
            for parameter, gradient in zip(self._parameters, held, strict=True):
                parameter.grad = gradient
            snapshot.restore()

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


def optimizer_state_bytes(optimizer: Optimizer) -> int:
    """The bytes of state that an optimizer will hold after its first step, on top of what it holds now.

    A copy of it takes one step on the meta device, where tensors have no memory.
    """
    held = _state_bytes(optimizer)
    if held:
        return 0
    shadow = copy.copy(optimizer)
    shadow.__dict__ = {**optimizer.__dict__}
    for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        setattr(shadow, name, OrderedDict())
    shadow.state = defaultdict(dict)
    shadow.param_groups = [{**group, "params": [_on_meta(p) for p in group["params"]]} for group in _groups(optimizer)]
    try:
        type(optimizer).step(shadow)
        return _state_bytes(shadow)
    except Exception:  # an optimizer that cannot run there: assume the two tensors per parameter of Adam
        return sum(2 * int(p.numel() * p.element_size()) for group in _groups(optimizer) for p in group["params"])


def _groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    return optimizer.param_groups


def _on_meta(parameter: Tensor) -> Tensor:
    shadow = torch.empty_like(parameter, device="meta").requires_grad_(parameter.requires_grad)
    if parameter.requires_grad:
        shadow.grad = torch.empty_like(shadow, requires_grad=False)
    return shadow


def _state_bytes(optimizer: Optimizer) -> int:
    return sum(
        int(leaf.numel() * leaf.element_size())
        for state in optimizer.state.values()
        for leaf in tree_leaves(state)
        if isinstance(leaf, Tensor)
    )
