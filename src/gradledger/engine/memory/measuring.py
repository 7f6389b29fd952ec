"""Measuring: the bytes and seconds of a micro-batch's forward and backward, without leaving a trace."""

from __future__ import annotations

import copy
import time
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradledger.engine.compiling import is_compiled, uncompiled
from gradledger.engine.memory.limits import Snapshot, is_out_of_memory, release
from gradledger.engine.replaying import LossFunction

_ENOUGH_SECONDS = 0.06
_RUNS_IN_A_ROW = 4  # on a device that computes while the next run is being launched, as in a window
_MAX_REPEATS = 5

Measured = TypeVar("Measured")


class MemoryTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Counts the bytes of tensors made while it is active, now and at the peak; works on fake tensors too.

    Memory that one kernel allocates and frees within itself is not seen. What is compiled runs uncompiled meanwhile.

    Args:
        tensors: Those that are there already and count as well.

    Example:
        >>> import torch
        >>> with MemoryTracker() as tracker:
        ...     kept = torch.zeros(1000)
        ...     _ = kept + kept
        >>> tracker.current_bytes, tracker.peak_bytes
        (8000, 8000)
    """

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current_bytes = 0
        self.peak_bytes = 0
        self._known: dict[int, weakref.ref[Any]] = {}
        self._uncompiled = ExitStack()
        for tensor in tensors:
            self._see(tensor, is_new=True)

    def __enter__(self) -> MemoryTracker:
        """Begin to count."""
        self._uncompiled.enter_context(uncompiled())
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Count no more."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._uncompiled.close()

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
        saving: Makes the context in which the model saves memory as in a window.
        keeping: Makes the context in which gradients of these parameters are kept as in a window.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[Tensor],
        loss_fn: LossFunction,
        autocast: Callable[[], AbstractContextManager[Any] | None] = lambda: None,
        saving: Callable[[], AbstractContextManager[Any]] = nullcontext,
        keeping: Callable[[Sequence[Tensor]], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._model = model
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._loss_fn = loss_fn
        self._autocast = autocast
        self.saving = saving
        self.keeping = keeping
        self.device = self._parameters[0].device
        self.lasting_bytes: int | None = None
        """What libraries keep of a device's memory from their first run on, such as cuBLAS's workspace."""

    def peak_bytes(self, micro_batch: Any, *, num_runs: int = 1) -> int | None:
        """The most bytes that are in use at once, beyond those before; None where they do not fit.

        From the second micro-batch of a window on, gradients are there from the beginning and a new one beside: measure
        two runs for a micro-batch that is not the only one.
        """
        return self._undone(lambda: self._measured_bytes(micro_batch, num_runs))

    def seconds(self, micro_batch: Any) -> float | None:
        """The seconds of the fastest of a few runs; None where they do not fit."""
        return self._undone(lambda: self._measured_seconds(micro_batch))

    def _measured_bytes(self, micro_batch: Any, num_runs: int) -> int:
        if self.device.type == "cuda":
            if self.lasting_bytes is None:
                self.lasting_bytes = self._warmed_up(micro_batch)
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            for _ in range(num_runs):
                self.run(self._model, self._parameters, micro_batch)
            return int(torch.cuda.max_memory_allocated(self.device)) - int(before)
        with MemoryTracker() as tracker:
            for _ in range(num_runs):
                self.run(self._model, self._parameters, micro_batch)
        return int(tracker.peak_bytes)

    def _warmed_up(self, micro_batch: Any) -> int:
        before = torch.cuda.memory_allocated(self.device)
        self.run(self._model, self._parameters, micro_batch)
        self._clear()
        return int(torch.cuda.memory_allocated(self.device)) - int(before)

    def _measured_seconds(self, micro_batch: Any) -> float:
        fastest, spent = float("inf"), 0.0
        if is_compiled(self._model):  # the first run of a shape may compile
            self.run(self._model, self._parameters, micro_batch)
            self._clear()
        clock, is_cpu = _clock_for(self.device), self.device.type == "cpu"
        num_runs = 1 if is_cpu else _RUNS_IN_A_ROW
        for _ in range(_MAX_REPEATS):
            start = clock()
            for number in range(num_runs):
                if number:
                    self._clear()
                self.run(self._model, self._parameters, micro_batch)
            if not is_cpu:
                torch.get_device_module(self.device).synchronize(self.device)
            elapsed = clock() - start
            self._clear()
            fastest, spent = min(fastest, elapsed / num_runs), spent + elapsed
            if spent > _ENOUGH_SECONDS:
                break
        return fastest

    def run(self, model: nn.Module, parameters: Sequence[Tensor], micro_batch: Any) -> None:
        """One forward and backward."""
        with self._autocast() or nullcontext():
            loss = self._loss_fn(model, micro_batch)
        torch.autograd.backward(loss, inputs=parameters)

    def _undone(self, measure: Callable[[], Measured]) -> Measured | None:
        snapshot = Snapshot(self._model, self.device)
        held = [parameter.grad for parameter in self._parameters]
        self._clear()
        try:
            with self.saving(), self.keeping(self._parameters):
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


def optimizer_bytes(optimizer: Optimizer) -> tuple[int, int]:
    """The bytes that an optimizer will hold after its first step on top of now, and those that a step needs meanwhile.

    A copy of it takes two steps on the meta device, where tensors have no memory. A fused step needs nothing
    meanwhile, and leaves the same behind as the others, which can be taken there.
    """
    shadow = _shadow(optimizer, _on_meta)
    is_fused = all(group.get("fused") for group in shadow.param_groups)
    if is_fused:
        for group in shadow.param_groups:
            group["fused"] = None
    try:
        type(optimizer).step(shadow)
        with MemoryTracker() as tracker:
            type(optimizer).step(shadow)
        meanwhile = 0 if is_fused else tracker.peak_bytes
        return max(0, _state_bytes(shadow) - _state_bytes(optimizer)), meanwhile
    except Exception:  # an optimizer that cannot run there: assume the two tensors per parameter of Adam
        return sum(2 * int(p.numel() * p.element_size()) for group in _groups(optimizer) for p in group["params"]), 0


def optimizer_step_seconds(optimizer: Optimizer) -> float:
    """The seconds of one step, taken by a copy of the optimizer on copies of its parameters; 0 where it cannot."""
    shadow = _shadow(optimizer, _copy_with_gradient)
    device = optimizer.param_groups[0]["params"][0].device
    fastest, clock = float("inf"), _clock_for(device)
    for _ in range(3):
        start = clock()
        try:
            type(optimizer).step(shadow)
        except Exception:  # one that needs a closure, or more memory than there is
            return 0.0
        if device.type != "cpu":
            torch.get_device_module(device).synchronize(device)
        fastest = min(fastest, clock() - start)
    return fastest


def _clock_for(device: torch.device) -> Callable[[], float]:
    """Seconds; those that one CPU thread worked where there is only one, so that nobody else's work is counted."""
    return time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def _shadow(optimizer: Optimizer, copied: Callable[[Tensor], Tensor]) -> Optimizer:
    """A copy of an optimizer without its hooks and state, on copies of its parameters."""
    shadow = copy.copy(optimizer)
    shadow.__dict__ = {**optimizer.__dict__}
    for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        setattr(shadow, name, OrderedDict())
    shadow.state = defaultdict(dict)
    shadow.param_groups = [{**group, "params": [copied(p) for p in group["params"]]} for group in _groups(optimizer)]
    return shadow


def _copy_with_gradient(parameter: Tensor) -> Tensor:
    copied = parameter.detach().clone().requires_grad_(parameter.requires_grad)
    if parameter.requires_grad:
        copied.grad = torch.zeros_like(copied, requires_grad=False)
    return copied


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
