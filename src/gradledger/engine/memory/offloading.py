"""Offloading: what a window has accumulated waits in host memory, so that it does not stand beside the activations.

Each parameter's gradient leaves the device as soon as a backward has made it, is added to the sum in host memory, and
is let go. When the window closes, the sums come back for the norm, the clipping and the step, at a time when there are
no activations. It costs host memory of one set of gradients, and their way to the host and back with each micro-batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from gradledger.errors import UserError

Offload = Literal["cpu"]
"""Where the gradients of an open window are kept instead of the device."""

_MOST_IN_FLIGHT = 2


def host_gradients(offload: Any, non_finite: str = "raise") -> HostGradients | None:
    """Where gradients are kept; None for beside their parameters.

    Raises:
        UserError: The choice is unknown, or micro-batches would have to be judged before their gradients go.
    """
    if offload is None:
        return None
    if offload not in get_args(Offload):
        raise UserError(f"{offload=}: choose 'cpu', or None to keep gradients beside their parameters")
    if non_finite == "drop-micro-batch":
        raise UserError(
            f"{offload=} sends gradients away as they are made, before non_finite='drop-micro-batch' can judge their "
            "micro-batch: use 'raise' or 'skip-update', or leave offload= out"
        )
    return HostGradients()


class HostGradients:
    """The gradients of one account's window, in host memory.

    The sums are those that ``.grad`` would hold, to the last bit.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> gradients = HostGradients()
        >>> gradients.begin([weight])
        >>> for _ in range(3):
        ...     weight.sum().backward()
        >>> weight.grad is None
        True
        >>> gradients.bring_back()
        >>> weight.grad.tolist()
        [3.0, 3.0]
        >>> gradients.end()
    """

    def __init__(self) -> None:
        self._sums: dict[Tensor, Tensor] = {}
        self._hooks: list[Any] = []
        self._pinned: _PinnedSums | None = None

    def begin(self, parameters: Sequence[Tensor]) -> None:
        """From here on, gradients leave the device as they are made."""
        self.end()
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in trained:
            self._hooks.append(parameter.register_post_accumulate_grad_hook(self.take))  # type: ignore[no-untyped-call]

    def end(self) -> None:
        """Gradients stay where they are made; the sums are dropped."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.discard()

    @contextmanager
    def active(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """Between :meth:`begin` and :meth:`end`."""
        self.begin(parameters)
        try:
            yield
        finally:
            self.end()

    def discard(self) -> None:
        """Forget what was accumulated."""
        self._sums.clear()
        if self._pinned is not None:
            self._pinned.discard()

    def sums(self) -> dict[Tensor, Tensor]:
        """What was accumulated, by parameter, in host memory."""
        pinned = {} if self._pinned is None else self._pinned.sums()
        return {**self._sums, **pinned}

    def bring_back(self) -> None:
        """Put the sums beside their parameters."""
        if self._pinned is not None:
            self._pinned.bring_back()
        for parameter, total in self._sums.items():
            parameter.grad = total.to(parameter.device)
        self._sums.clear()

    def take(self, parameter: Tensor) -> None:
        """Add a parameter's gradient to its sum, and let it go."""
        gradient = parameter.grad
        assert gradient is not None
        parameter.grad = None
        if gradient.is_cuda and gradient.layout == torch.strided:
            self._pinned = self._pinned or _PinnedSums(gradient.device)
            self._pinned.add(parameter, gradient)
            return
        arrived = gradient.detach().to("cpu")
        held = self._sums.get(parameter)
        self._sums[parameter] = arrived if held is None else held.add_(arrived)


class _InFlight(NamedTuple):
    """A gradient and its sum, whose memory the device may use again after an event."""

    done: Any
    tensors: tuple[Tensor, ...]


class _PinnedSums:
    """Sums in pinned host memory, added to on the device, on a stream of its own, without a host sync.

    A sum makes the way to the device and back for each addition. No more than a few are on their way at a time: the
    computing stream waits for the oldest, so the device never holds more than a few gradients. The pinned memory is
    kept for the next window.

    Args:
        device: The CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._buffers: dict[Tensor, Tensor] = {}
        self._filled: set[Tensor] = set()
        self._in_flight: deque[_InFlight] = deque()

    def add(self, parameter: Tensor, gradient: Tensor) -> None:
        gradient = gradient.detach()
        buffer = self._buffers.get(parameter)
        if buffer is None or (buffer.shape, buffer.dtype) != (gradient.shape, gradient.dtype):
            buffer = self._buffers[parameter] = torch.empty_like(gradient, device="cpu", pin_memory=True)
        computing = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(computing)
        with torch.cuda.stream(self._stream):
            total = gradient
            if parameter in self._filled:
                total = buffer.to(self._device, non_blocking=True).add_(gradient)
            buffer.copy_(total, non_blocking=True)
            done = self._stream.record_event()
        self._filled.add(parameter)
        self._in_flight.append(_InFlight(done, (gradient, total)))
        if len(self._in_flight) > _MOST_IN_FLIGHT:
            computing.wait_event(self._in_flight.popleft().done)

    def discard(self) -> None:
        self._land()
        self._filled.clear()

    def sums(self) -> dict[Tensor, Tensor]:
        self._stream.synchronize()
        return {parameter: self._buffers[parameter] for parameter in self._filled}

    def bring_back(self) -> None:
        self._land()
        for parameter in self._filled:
            parameter.grad = self._buffers[parameter].to(self._device, non_blocking=True)
        self._filled.clear()

    def _land(self) -> None:
        """Let the computing stream wait for all that is on its way."""
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self._in_flight.clear()
