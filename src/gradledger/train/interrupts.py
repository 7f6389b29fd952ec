"""Ctrl-C that lands between micro-batches, where an open window can be voided whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from gradledger.train.ranks import RunRanks


class Interrupts:
    """While entered, the first Ctrl-C waits for the next :meth:`check`; a second one interrupts at once."""

    def __init__(self) -> None:
        self.is_requested = False
        self.is_urgent = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other thread may have handlers
            self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def check(self) -> None:
        """Raise where Ctrl-C was pressed.

        Raises:
            KeyboardInterrupt: It was.
        """
        if self.is_requested:
            raise KeyboardInterrupt

    def check_together(self, ranks: RunRanks) -> None:
        """Raise on all ranks where Ctrl-C was pressed on one.

        Raises:
            KeyboardInterrupt: It was.
        """
        if ranks.total("look for Ctrl-C", float(self.is_requested))[0]:
            raise KeyboardInterrupt

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.is_requested:
            self.is_urgent = True
            raise KeyboardInterrupt
        self.is_requested = True
