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


def refusing(number: int, error: int = errno.ENOSPC, *, is_once: bool) -> Callable[[int], None]:
    """The disk refuses the operation of that number, or all from it on."""

    def happen(operation: int) -> None:
        if operation == number or (operation > number and not is_once):
            raise OSError(error, os.strerror(error))

    return happen


def full_from(number: int) -> Callable[[int], None]:
    """The disk is full from the operation of that number on."""
    return refusing(number, is_once=False)


def full_at(number: int) -> Callable[[int], None]:
    """One operation finds the disk full."""
    return refusing(number, is_once=True)


@contextmanager
def torn_disk(number: int, die: Callable[[], None]) -> Iterator[None]:
    """Half of what the write of that number (from 1) writes reaches the disk, and the process dies."""
    writes = {(os, "write"): _half_of_data, (Path, "write_bytes"): _half_of_data, (writing, "save_file"): _half_of_file}
    num_writes = 0
    with ExitStack() as patches:
        for (owner, name), half in writes.items():
            original = getattr(owner, name)

            def torn(*arguments, _original=original, _half=half):
                nonlocal num_writes
                num_writes += 1
                if num_writes == number:
                    _half(_original, *arguments)
                    die()
                return _original(*arguments)

            patches.enter_context(mock.patch.object(owner, name, torn))
        yield


def _half_of_data(write, target, data):
    write(target, bytes(data[: len(data) // 2]))


def _half_of_file(write, tensors, path):
    write(tensors, path)
    os.truncate(path, path.stat().st_size // 2)
