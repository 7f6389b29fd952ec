"""A checkpoint reaches the disk whole or not at all: written aside, synced, then renamed into place."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gradledger import __version__
from gradledger.train.checkpoint.encoding import encode
from gradledger.train.checkpoint.layout import (
    FILES,
    FORMAT_VERSION,
    LATEST,
    MANIFEST,
    MODEL,
    STATE,
    TENSORS,
    UNFINISHED,
    Extent,
    Place,
    checkpoints_in,
    extent_of,
    manifest_bytes,
)


def write_checkpoint(
    directory: Path, place: Place, state: Mapping[str, Any], lines: Mapping[str, Extent], *, keep: int
) -> Path:
    """Write a checkpoint, have ``latest`` name it, and remove the oldest ones.

    Args:
        directory: The run's ``checkpoints`` directory.
        place: Where in the run this is.
        state: What is kept; ``state["model"]`` is the model's own state.
        lines: How far the run's own files had been written, by their names.
        keep: Checkpoints that are left, this one among them.

    Returns:
        The new checkpoint.

    Raises:
        OSError: It cannot be written; nothing of it is left, and those there were are as they were.
        UserError: The state holds something that cannot be kept.
    """
    rest, tensors = encode({name: part for name, part in state.items() if name != "model"}, "state")
    model, weights = encode(state["model"], "model")
    plain = {"model": model, "state": rest, "lines": {name: extent._asdict() for name, extent in lines.items()}}
    aside = directory / f"{UNFINISHED}{place.name}"
    final = directory / place.name
    try:
        remove_checkpoint(aside)
        aside.mkdir()
        _save_tensors({name.removeprefix("model."): tensor for name, tensor in weights.items()}, aside / MODEL)
        _save_tensors(tensors, aside / TENSORS)
        _write(aside / STATE, json.dumps(plain, separators=(",", ":")).encode())
        _write(aside / MANIFEST, manifest_bytes(_manifest(place, aside)))
        _sync(aside)
        aside.rename(final)
        _sync(directory)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    replace_file(directory / LATEST, f"{place.name}\n".encode())
    _remove_all_but(directory, keep)
    return final


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that is whole at any moment: the former one until the new one has reached the disk.

    Raises:
        OSError: It cannot be written; the former one is as it was.
    """
    with replacing(path) as aside:
        _write(aside, content)


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
        _sync(aside)
        aside.replace(path)
        _sync(path.parent)
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


def _manifest(place: Place, path: Path) -> dict[str, Any]:
    return {
        "gradledger_checkpoint": FORMAT_VERSION,
        "written_by": __version__,
        **place._asdict(),
        "files": {name: extent_of(path / name)._asdict() for name in FILES},
    }


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    with _as_os_error():
        save_file(tensors, path)
    _sync(path)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _sync(path)


def _sync(path: Path) -> None:
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


def _remove_all_but(directory: Path, keep: int) -> None:
    for path in checkpoints_in(directory)[:-keep]:
        remove_checkpoint(path)
