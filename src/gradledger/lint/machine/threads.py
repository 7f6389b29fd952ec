"""Generator functions of the interpreted program: each runs on a thread of its own, one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

MAX_NESTED = 60
"""Generators that may wait for one another."""
MAX_LIVE = 400
"""Generators that may stand begun and unfinished."""


class _StopGenerator(BaseException):
    """Ends a generator that nobody reads any more."""


class TooManyGeneratorsError(Exception):
    """The program makes generators without end."""


class Generators:
    """The generators of one machine; :meth:`close` ends those that were not read to their end."""

    def __init__(self) -> None:
        self.live: set[GeneratorThread] = set()
        self.num_nested = 0

    def start(self, body: Callable[[GeneratorThread], None]) -> GeneratorThread:
        """A generator whose body calls ``hand_over`` for each element."""
        return GeneratorThread(body, self)

    def close(self) -> None:
        """End what is still running."""
        for generator in list(self.live):
            generator.close()


class GeneratorThread(Iterator[Any]):
    """Runs ``body`` as far as its next element whenever one is asked for."""

    def __init__(self, body: Callable[[GeneratorThread], None], kin: Generators) -> None:
        self._body = body
        self._kin = kin
        self._resume = threading.Semaphore(0)
        self._ready = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._element: Any = None
        self._error: BaseException | None = None
        self._finished = False
        self._closing = False

    def __next__(self) -> Any:
        if self._finished:
            raise StopIteration
        if self._kin.num_nested >= MAX_NESTED or len(self._kin.live) >= MAX_LIVE:
            raise TooManyGeneratorsError("it makes too many generators")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._kin.live.add(self)
            self._thread.start()
        else:
            self._resume.release()
        self._kin.num_nested += 1
        self._ready.acquire()
        self._kin.num_nested -= 1
        if self._finished:
            self._thread.join()
            if self._error is not None:
                raise self._error
            raise StopIteration
        return self._element

    def hand_over(self, element: Any) -> None:
        """Give an element to the reader and wait until the next is wanted; called by the body."""
        self._element = element
        self._ready.release()
        self._resume.acquire()
        if self._closing:
            raise _StopGenerator

    def close(self) -> None:
        """End the body where it stands."""
        if self._thread is not None and not self._finished:
            self._closing = True
            self._resume.release()
            self._thread.join()
        self._finished = True

    def _run(self) -> None:
        try:
            self._body(self)
        except _StopGenerator:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._finished = True
            self._kin.live.discard(self)
            self._ready.release()
