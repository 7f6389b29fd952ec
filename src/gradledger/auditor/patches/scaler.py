"""The gradient scaler."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from typing import Any

import torch

from gradledger.auditor.reading.loss_graph import SCALER_MARK
from gradledger.auditor.recording.recorder import Recorder


def watch_scale(recorder: Recorder, original: Any) -> Any:
    """Marks the multiplication in the graph, so that the loss's own scale can be told from it."""

    @functools.wraps(original)
    def scale(self: Any, outputs: Any) -> Any:
        result = original(self, outputs)
        if self._enabled:
            recorder.backwards.scaler_used = True
            for tensor in [result] if isinstance(result, torch.Tensor) else result:
                node: Any = getattr(tensor, "grad_fn", None)
                if node is not None:
                    node.metadata[SCALER_MARK] = True
        return result

    return scale


def watch_unscale(recorder: Recorder, original: Any) -> Any:
    """``scaler.unscale_``."""

    @functools.wraps(original)
    def unscale_(self: Any, optimizer: Any) -> None:
        with recorder.scalers.unscaling(self, optimizer) if self._enabled else nullcontext():
            original(self, optimizer)

    return unscale_


def watch_step(recorder: Recorder, original: Any) -> Any:
    """``scaler.step``."""

    @functools.wraps(original)
    def step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._enabled:
            return original(self, optimizer, *args, **kwargs)
        with recorder.scalers.stepping(self, optimizer):
            return original(self, optimizer, *args, **kwargs)

    return step


def watch_update(recorder: Recorder, original: Any) -> Any:
    """``scaler.update``."""

    @functools.wraps(original)
    def update(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self._enabled:
            recorder.scalers.updated(self)

    return update
