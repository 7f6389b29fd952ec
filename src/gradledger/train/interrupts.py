"""Signals that wait for a point where a run can stop, so that it can be gone on from."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Self


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came: somebody wants the machine back."""


class Asked(NamedTuple):
    """What signals have asked for."""

    interrupt: bool = False
    terminate: bool = False
    checkpoint: bool = False

    def stop(self) -> None:
        """Raise where the run is to stop.

        Raises:
            TerminatedError: SIGTERM came.
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        if self.terminate:
            raise TerminatedError
        if self.interrupt:
            raise KeyboardInterrupt


NOTHING_ASKED = Asked()

_MEANINGS = {"SIGINT": Asked(interrupt=True), "SIGTERM": Asked(terminate=True), "SIGUSR1": Asked(checkpoint=True)}


class Interrupts:
    """While entered, Ctrl-C and SIGTERM only note that the run is to stop; a second one ends it at once.

    SIGUSR1 asks for a checkpoint. Whoever finds a good point looks at :attr:`asked`.
    """

    def __init__(self) -> None:
        self.asked = NOTHING_ASKED
        self.is_urgent = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other thread may have handlers
            numbers = [getattr(signal, name) for name in _MEANINGS if hasattr(signal, name)]
            self._previous = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        meaning = _MEANINGS[signal.Signals(number).name]
        self.is_urgent = (self.asked.interrupt or self.asked.terminate) and not meaning.checkpoint
        self.asked = Asked(*(one or other for one, other in zip(self.asked, meaning, strict=True)))
        if self.is_urgent:
            meaning.stop()

    def forget_checkpoint(self) -> None:
        """The checkpoint that was asked for has been made."""
        self.asked = self.asked._replace(checkpoint=False)
