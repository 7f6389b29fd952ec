"""Optimizers and modules: made, zeroed, put into another mode."""

from __future__ import annotations

import functools
from typing import Any

from gradledger.auditor.recording.recorder import Recorder


def watch_init(recorder: Recorder, original: Any) -> Any:
    """An optimizer opens its account."""

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        recorder.registry.account_of(self)

    return init


def watch_optimizer_zero_grad(recorder: Recorder, original: Any) -> Any:
    """``optimizer.zero_grad``."""

    @functools.wraps(original)
    def zero_grad(self: Any, *args: Any, **kwargs: Any) -> None:
        recorder.registry.account_of(self)
        parameters = [p for group in self.param_groups for p in group["params"]]
        with recorder.zero_calls.around(parameters):
            original(self, *args, **kwargs)

    return zero_grad


def watch_module_zero_grad(recorder: Recorder, original: Any) -> Any:
    """``model.zero_grad``."""

    @functools.wraps(original)
    def zero_grad(self: Any, *args: Any, **kwargs: Any) -> None:
        with recorder.zero_calls.around(self.parameters()):
            original(self, *args, **kwargs)

    return zero_grad


def watch_mode(recorder: Recorder, original: Any) -> Any:
    """``model.train()`` and ``model.eval()``; a module sets the mode of those in it."""
    local = recorder.local

    @functools.wraps(original)
    def train(self: Any, mode: bool = True) -> Any:
        local.mode_depth += 1
        try:
            result = original(self, mode)
        finally:
            local.mode_depth -= 1
        if not local.mode_depth:
            recorder.evaluations.mode_set(self, training=bool(mode))
        return result

    return train
