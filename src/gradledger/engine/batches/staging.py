"""Staging: the current micro-batch on the device and the next one on its way, never the whole effective batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gradledger.engine.batches.nesting import tensor_leaves, to_device


class Stage:
    """Hands out micro-batches on a device, copying one ahead.

    On CUDA the copy runs on a stream of its own, beside the computation (from pinned memory, as a ``DataLoader`` with
    ``pin_memory=True`` gives).

    Args:
        micro_batches: The window's micro-batches, wherever they are.
        device: Where they are wanted; None leaves them.
        announce: Called with each micro-batch that is handed out.
    """

    def __init__(
        self,
        micro_batches: Sequence[Any],
        device: torch.device | None,
        announce: Callable[[Any], None] | None = None,
    ) -> None:
        self._micro_batches = micro_batches
        self._announce = announce
        self._device = device
        self._ahead: tuple[int, Any] | None = None
        is_cuda = device is not None and device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if is_cuda else None  # type: ignore[no-untyped-call]

    def take(self, position: int) -> Any:
        """The micro-batch at ``position``; the one after it is set on its way."""
        micro_batch = self._micro_batches[position] if self._device is None else self._take_ahead(position)
        if self._announce is not None:
            self._announce(micro_batch)
        return micro_batch

    def _take_ahead(self, position: int) -> Any:
        micro_batch = self._ahead[1] if self._ahead and self._ahead[0] == position else self._copy(position)
        if self._stream is not None:
            self._hand_over(micro_batch)
        following = position + 1
        self._ahead = (following, self._copy(following)) if following < len(self._micro_batches) else None
        return micro_batch

    def clear(self) -> None:
        """Let go of the copy that was made ahead."""
        self._ahead = None

    def _copy(self, position: int) -> Any:
        assert self._device is not None
        if self._stream is None:
            return to_device(self._micro_batches[position], self._device)
        with torch.cuda.stream(self._stream):
            return to_device(self._micro_batches[position], self._device)

    def _hand_over(self, micro_batch: Any) -> None:
        """Let the computing stream wait for the copy, and keep the copy's memory until it has been computed with."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)  # type: ignore[arg-type]  # only called where there is one
        for _, tensor in tensor_leaves(micro_batch):
            if tensor.is_cuda:
                tensor.record_stream(computing)
