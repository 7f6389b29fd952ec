"""Peak memory of a part of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from gradledger.engine.memory.measuring import MemoryTracker
from gradledger.train.parallel import is_sharded


class PeakMemory:
    """The peak memory of a run: an accelerator's allocator knows it; on a CPU the first windows are measured.

    Of a model that is sharded over ranks nothing is measured on a CPU.

    Args:
        model: The model that is trained.
        device: Where it is.
    """

    NUM_WINDOWS = 2
    """The second window is the first one to run with the optimizer's state in place."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._device = device
        can_measure = device.type == "cpu" and not is_sharded(model)
        self._num_left = self.NUM_WINDOWS if can_measure else 0
        self._tensors = [*model.parameters(), *model.buffers()]
        self._live: MemoryTracker | None = None
        self._earlier_peak = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @contextmanager
    def window(self) -> Iterator[None]:
        """Measures the window inside, where it is one of the first on a CPU."""
        if self._num_left == 0:
            yield
            return
        self._num_left -= 1
        if self._live is None:
            self._live = MemoryTracker(self._tensors)
        with self._live:
            yield

    def peak_bytes(self) -> int | None:
        """The peak so far; None where nothing was measured."""
        peak = self._earlier_peak if self._live is None else max(self._live.peak_bytes, self._earlier_peak)
        if self._device.type == "cuda":
            peak = max(torch.cuda.max_memory_allocated(self._device), peak)
        return peak or None

    def state_dict(self) -> dict[str, int]:
        """What was measured so far."""
        return {"peak": self.peak_bytes() or 0, "num_left": self._num_left}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from there: windows that were measured are not measured again."""
        self._earlier_peak, self._num_left = state["peak"], state["num_left"]
