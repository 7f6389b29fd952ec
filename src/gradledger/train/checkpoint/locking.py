"""One process at a time writes a run: a scheduler may start the next before the last one is gone."""

from __future__ import annotations

import errno
import os
import sys
import weakref
from pathlib import Path

from gradledger.errors import UserError


class Lock:
    """Held by the process that writes a run, until it is closed or the process is gone, however it went.

    Reading workers that outlive their process do not hold it, since it is not inherited.

    Args:
        directory: The run's ``checkpoints`` directory, made where it is missing.

    Raises:
        UserError: Another process holds it.
        OSError: The lock's file cannot be made.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        self.close = weakref.finalize(self, os.close, descriptor)
        try:
            _lock(descriptor)
        except OSError as error:
            self.close()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UserError(
                    f"{directory.parent} is being written by another process: wait for its end, or end it"
                ) from None
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # a file system without locks
                raise


def _lock(descriptor: int) -> None:
    if sys.platform != "win32":
        import fcntl

        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
