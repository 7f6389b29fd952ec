"""Files that a run appends lines to: whole lines whatever the disk does, and a place to go on from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from gradledger.train.checkpoint.layout import Extent


class LineFile:
    """A file that lines are appended to.

    Each call hands its lines to the system at once. What the disk refuses is kept in memory and goes first the next
    time, from the very byte, so that a line is never lost, doubled or mixed with another.

    Args:
        path: Must not exist yet, unless ``extent`` is given.
        extent: Go on behind this; what is after it was written by a process that was given up, and is cut off.

    Raises:
        OSError: The file cannot be made or opened.
    """

    def __init__(self, path: Path, extent: Extent | None = None) -> None:
        self.path = path
        is_new = os.O_CREAT | os.O_EXCL if extent is None else 0
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | is_new, 0o666)
        self._waiting = bytearray()
        self._digest = hashlib.sha256()
        self._num_bytes = 0
        if extent is not None:
            os.ftruncate(self._descriptor, extent.num_bytes)
            with path.open("rb") as file:
                self._digest = hashlib.file_digest(file, "sha256")
            self._num_bytes = extent.num_bytes

    @property
    def is_waiting(self) -> bool:
        """Whether the disk refused something that is still in memory."""
        return bool(self._waiting)

    def append(self, text: str) -> None:
        """Append whole lines.

        Raises:
            OSError: The disk refuses them; they wait, and the next call tries again.
        """
        self._waiting += text.encode()
        while self._waiting:
            num_written = os.write(self._descriptor, self._waiting)
            self._digest.update(self._waiting[:num_written])
            self._num_bytes += num_written
            del self._waiting[:num_written]

    def sync(self) -> Extent:
        """Have everything reach the disk; how far the file goes then.

        Raises:
            OSError: It cannot.
        """
        self.append("")
        os.fsync(self._descriptor)
        return Extent(self._num_bytes, self._digest.hexdigest())

    def close(self) -> None:
        """Close the file; closing it twice is nothing.

        Raises:
            OSError: Lines still wait, and are lost.
        """
        if self._descriptor < 0:
            return
        try:
            self.append("")
        finally:
            os.close(self._descriptor)
            self._descriptor = -1
