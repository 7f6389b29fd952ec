"""Files that a user names, read without trust: no waiting for a pipe that nobody fills, no end of memory."""

from __future__ import annotations

import errno
import io
import os
import select
import stat
from pathlib import Path

from gradledger.errors import UserError

_PIECE_BYTES = 1 << 20


def read_file(path: str | os.PathLike[str], *, most_bytes: int) -> bytes:
    """All bytes of a file, a pipe or a device.

    Args:
        path: The file.
        most_bytes: What it may have.

    Raises:
        UserError: It has more.
        OSError: It cannot be read, or is a folder.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb", buffering=0) as file:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        content = bytearray()
        while piece := _next_piece(file):
            content += piece
            if len(content) > most_bytes:
                raise UserError(f"{path} has more than the {most_bytes:,} bytes that are read of such a file")
    return bytes(content)


def _next_piece(file: io.FileIO) -> bytes:
    """What can be read now; empty at the end. A pipe that has a writer is waited for."""
    while (piece := file.read(_PIECE_BYTES)) is None:
        select.select([file], [], [])
    return piece


def name_of(path: Path) -> str:
    """The name of a file or folder, also of ``.`` and of links that lead nowhere."""
    return os.path.basename(os.path.realpath(path))
