"""One thread at a time at the books; what destroyed objects ask for waits until nobody is at them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class Turns:
    """Held while something is read from the program or written down, never while the program's own code runs.

    The garbage collector may run in the middle of any line and with it the callbacks of weak references, in any
    thread. They must not change lists that the line is going over, nor wait for a lock that the line holds.

    Example:
        >>> turns, done = Turns(), []
        >>> with turns:
        ...     turns.when_free(lambda: done.append("later"))
        ...     done.append("now")
        >>> done
        ['now', 'later']
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._waiting: deque[Callable[[], None]] = deque()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        try:
            while self._depth == 1 and self._waiting:
                self._waiting.popleft()()
        finally:
            self._depth -= 1
            self._lock.release()

    def when_free(self, action: Callable[[], None]) -> None:
        """Do this at once where nobody is at the books, otherwise when the one who is has done."""
        self._waiting.append(action)
        if self._lock.acquire(blocking=False):  # it is free, or this very thread's
            try:
                if not self._depth:
                    with self:
                        pass  # leaving does what waits
            finally:
                self._lock.release()
