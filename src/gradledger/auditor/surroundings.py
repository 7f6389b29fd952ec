"""What a script may change of the process that it is audited in, and what a report needs of it afterwards."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

_STDOUT, _STDERR = 1, 2


class Surroundings:
    """The folder, the paths and the output streams of a process, to be put back when a script has ended.

    Args:
        output_to_stderr: Until then, what is written to standard output goes to standard error, by child processes too.
    """

    def __init__(self, *, output_to_stderr: bool) -> None:
        self._folder = _current_folder()
        self._path, self._arguments = list(sys.path), list(sys.argv)
        self._streams = sys.stdout, sys.stderr
        self._copies = {number: _copy_of(number) for number in (_STDOUT, _STDERR)}
        if output_to_stderr:
            send_output_to_stderr()

    def put_back(self) -> None:
        """Put back what the script has changed, moved or closed."""
        _flush(sys.stdout, sys.stderr)
        if self._folder is not None:
            with suppress(OSError):  # it is gone
                os.chdir(self._folder)
        sys.path, sys.argv = self._path, self._arguments
        for number, copy in self._copies.items():
            if copy is not None:
                os.dup2(copy, number)
                os.close(copy)
        self._copies = {}
        sys.stdout, sys.stderr = _usable(self._streams[0], _STDOUT), _usable(self._streams[1], _STDERR)


def send_output_to_stderr() -> None:
    """From now on, what is written to standard output goes to standard error."""
    _flush(sys.stdout)
    with suppress(OSError):
        os.dup2(_STDERR, _STDOUT)
    sys.stdout = sys.stderr


@contextmanager
def sudden_ends(tell: Callable[[str, int], int]) -> Iterator[None]:
    """Within, the ends of a process that unwind no stack are told: ``os._exit``, and the signal to terminate.

    Processes that are forked meanwhile end as ever.

    Args:
        tell: Called with the means (``os._exit`` or ``SIGTERM``) and its status or number; gives the status to end
            with.
    """
    process, end = os.getpid(), os._exit
    handler = signal.getsignal(signal.SIGTERM)

    def exit_process(status: int) -> Any:
        if os.getpid() == process:
            status = tell("os._exit", status)
            _flush(sys.stdout, sys.stderr)
        end(status)

    def on_terminate(number: int, _frame: Any) -> None:
        if os.getpid() != process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        status = tell("SIGTERM", number)
        _flush(sys.stdout, sys.stderr)
        end(status)

    setattr(os, "_exit", exit_process)  # noqa: B010  # mypy refuses to assign a function
    if handler == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield
    finally:
        setattr(os, "_exit", end)  # noqa: B010
        if signal.getsignal(signal.SIGTERM) is on_terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _current_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _copy_of(number: int) -> int | None:
    try:
        return os.dup(number)
    except OSError:  # closed before the script began
        return None


def _flush(*streams: Any) -> None:
    for stream in streams:
        with suppress(OSError, ValueError, AttributeError):  # closed, or replaced by something else
            stream.flush()


def _usable(stream: Any, number: int) -> IO[str]:
    if stream is not None and not getattr(stream, "closed", False):
        return stream  # type: ignore[no-any-return]
    try:
        return open(number, "w", encoding="utf-8", errors="replace", closefd=False)
    except OSError:
        return open(os.devnull, "w", encoding="utf-8")
