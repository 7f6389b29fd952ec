"""Clipping by norm and by value."""

from __future__ import annotations

import functools
from typing import Any

import torch

from gradledger.auditor.recording.recorder import Recorder
from gradledger.ledger import Clip


def watch_by_norm(recorder: Recorder, original: Any) -> Any:
    """``clip_grad_norm_`` and ``clip_grads_with_norm_``."""

    @functools.wraps(original)
    def clip(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
        parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        limit = float(max_norm) if isinstance(max_norm, int | float) else None
        with recorder.clips.around(parameters, Clip(by="norm", limit=limit)):
            return original(parameters, max_norm, *args, **kwargs)

    return clip


def watch_by_value(recorder: Recorder, original: Any) -> Any:
    """``clip_grad_value_``."""

    @functools.wraps(original)
    def clip(parameters: Any, clip_value: float, *args: Any, **kwargs: Any) -> Any:
        parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        with recorder.clips.around(parameters, Clip(by="value", limit=float(clip_value))):
            return original(parameters, clip_value, *args, **kwargs)

    return clip
