"""Passes over a ``DataLoader``."""

from __future__ import annotations

import functools
from typing import Any

from gradledger.auditor.recording.recorder import Recorder


def watch_iterate(recorder: Recorder, original: Any) -> Any:
    """A pass begins."""
    epochs = recorder.epochs

    @functools.wraps(original)
    def iterate(self: Any) -> Any:
        iterator = original(self)
        iterator._gradledger_pass = epochs.open_pass(self)  # a persistent iterator serves one pass after the other
        return iterator

    return iterate


def watch_advance(recorder: Recorder, original: Any) -> Any:
    """A pass yields a micro-batch or ends."""
    epochs = recorder.epochs

    @functools.wraps(original)
    def advance(self: Any) -> Any:
        loader_pass = getattr(self, "_gradledger_pass", None)
        if loader_pass is None:
            return original(self)
        try:
            batch = original(self)
        except StopIteration:
            epochs.exhausted(loader_pass)
            raise
        epochs.fetch(loader_pass)
        return batch

    return advance
