"""Schedulers."""

from __future__ import annotations

import functools
from typing import Any

from gradledger.auditor.recording.recorder import Recorder


def watch_init(recorder: Recorder, original: Any) -> Any:
    """A scheduler is made."""

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        recorder.schedules.built(self)
        original(self, *args, **kwargs)

    return init


def watch_first_step(recorder: Recorder, original: Any) -> Any:
    """A new scheduler calls its own ``step`` once: nothing has advanced."""
    local = recorder.local

    @functools.wraps(original)
    def _initial_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        local.scheduler_depth += 1
        try:
            return original(self, *args, **kwargs)
        finally:
            local.scheduler_depth -= 1

    return _initial_step


def watch_step(recorder: Recorder, original: Any) -> Any:
    """A scheduler advances; one inside another is part of it."""
    local = recorder.local

    @functools.wraps(original)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        local.scheduler_depth += 1
        try:
            result = original(self, *args, **kwargs)
        finally:
            local.scheduler_depth -= 1
        if not local.scheduler_depth:
            recorder.schedules.advanced(self)
        return result

    step._gradledger = True  # type: ignore[attr-defined]
    return step
