"""A disk that fails: every operation on files is counted, and at one of them something happens."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

from gradledger.train.checkpoint import writing

_OPERATIONS = [
    (os, "write"),
    (os, "fsync"),
    (os, "mkdir"),
    (os, "rename"),
    (os, "replace"),
    (shutil, "rmtree"),
    (Path, "write_bytes"),
    (writing, "save_file"),
]
"""What the run's own files and its checkpoints are written with."""


class Disk:
    """Counts operations.

    Args:
        happen: Called with the number of each operation, from 1, before it is done.
    """

    def __init__(self, happen: Callable[[int], None]) -> None:
        self.num_operations = 0
        self._happen = happen

    def begin_operation(self) -> None:
        self.num_operations += 1
        self._happen(self.num_operations)


@contextmanager
def watched_disk(happen: Callable[[int], None]) -> Iterator[Disk]:
    """Inside, ``happen`` is called before each operation on files, and may raise instead of it."""
    disk = Disk(happen)
    with ExitStack() as patches:
        for owner, name in _OPERATIONS:
            original = getattr(owner, name)

            def counted(*arguments, _original=original, **options):
                disk.begin_operation()
                return _original(*arguments, **options)

            patches.enter_context(mock.patch.object(owner, name, counted))
        yield disk


def full_from(number: int) -> Callable[[int], None]:
    """The disk is full from the operation of that number on."""

    def happen(operation: int) -> None:
        if operation >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return happen


def full_at(number: int) -> Callable[[int], None]:
    """One operation finds the disk full."""

    def happen(operation: int) -> None:
        if operation == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return happen
