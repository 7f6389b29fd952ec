"""Files that reach the disk whole or not at all: written aside, synced, then renamed into place."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gradledger.train.checkpoint.layout import UNFINISHED


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that is whole at any moment: the former one until the new one has reached the disk.

    Raises:
        OSError: It cannot be written; the former one is as it was.
    """
    with replacing(path) as aside:
        write_synced(aside, content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path to write to; what was written there takes the place of ``path`` afterwards.

    Raises:
        OSError: It cannot be written; the former file is as it was.
    """
    aside = path.with_name(f"{UNFINISHED}{path.name}")
    try:
        with _as_os_error():
            yield aside
        sync(aside)
        aside.replace(path)
        sync(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint: first its name, so that none is ever seen half removed."""
    if path.exists():
        nameless = path if path.name.startswith(UNFINISHED) else path.rename(path.with_name(UNFINISHED + path.name))
        shutil.rmtree(nameless)


def tidy(directory: Path) -> None:
    """Remove what a process that died was writing or removing."""
    for path in directory.glob(f"{UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors and have them reach the disk.

    Raises:
        OSError: They cannot be written.
    """
    with _as_os_error():
        save_file(tensors, path)
    sync(path)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and have it reach the disk.

    Raises:
        OSError: It cannot be written.
    """
    path.write_bytes(content)
    sync(path)


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, reach the disk.

    Raises:
        OSError: It cannot.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _as_os_error() -> Iterator[None]:
    """What the disk refuses, safetensors tells in the text of an error of its own."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
