"""Optimizers that are made, and ``zero_grad``."""

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
