"""Reading checkpoints back: each is checked whole before anything in it is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gradledger.train.checkpoint.layout import (
    DAMAGED,
    FILES,
    MODEL,
    STATE,
    TENSORS,
    CheckpointError,
    Extent,
    Place,
    checkpoints_in,
    extent_of,
    place_of,
    read_manifest,
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are all as they were written.

    Args:
        path: Its directory.
        place: Where in the run it was made.
        plain: Its ``state.json``: everything but the tensors.
    """

    path: Path
    place: Place
    plain: Any

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the run."""
        from gradledger.train.checkpoint.encoding import decode

        config: dict[str, Any] = decode(self.plain["state"]["config"], {})
        return config

    @property
    def lines(self) -> dict[str, Extent]:
        """How far the run's own files went."""
        return {name: Extent(**extent) for name, extent in self.plain["lines"].items()}

    def load(self) -> dict[str, Any]:
        """The state that was written, its tensors on the CPU.

        Raises:
            CheckpointError: The files are what the manifest says, but do not make a state.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from gradledger.train.checkpoint.encoding import decode

        try:
            # Copies: in the file tensors lie at any byte, and a product's last bit can depend on where its factors lie.
            tensors = {name: tensor.clone() for name, tensor in load_file(self.path / TENSORS).items()}
            weights = {f"model.{name}": tensor.clone() for name, tensor in load_file(self.path / MODEL).items()}
            state = decode(self.plain["state"], tensors)
            return {**state, "model": decode(self.plain["model"], weights)}
        except (SafetensorError, OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{self.path} is damaged: {type(error).__name__}: {error}") from None


def read_checkpoint(path: Path) -> Checkpoint:
    """Check a checkpoint's files against their sizes and hashes.

    Raises:
        CheckpointError: It is damaged, cut short, foreign or newer; the message names the file and what is wrong.
    """
    manifest = read_manifest(path)
    for name in FILES:
        _check(path / name, Extent(**manifest["files"][name]), extent_of, f"{path / name} is damaged")
    try:
        plain = json.loads((path / STATE).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path / STATE} is damaged: {error}") from None
    for name, extent in plain["lines"].items():
        start = Extent(**extent)
        what = f"{path} cannot be gone on from: {name} was changed since"
        _check(path.parent.parent / name, start, partial(extent_of, num_bytes=start.num_bytes), what)
    return Checkpoint(path, Place(manifest["number"], manifest["update"], manifest["micro_batch"]), plain)


def _check(path: Path, wanted: Extent, measure: Callable[[Path], Extent], what: str) -> None:
    try:
        found = measure(path)
    except FileNotFoundError:
        raise CheckpointError(f"{what}: it is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if found.num_bytes != wanted.num_bytes:
        raise CheckpointError(f"{what}: it has {found.num_bytes} bytes, but had {wanted.num_bytes}")
    if found != wanted:
        raise CheckpointError(f"{what}: its SHA-256 is not the one that it had")


def newest_good(directory: Path, *, before: int | None = None) -> tuple[Checkpoint | None, list[CheckpointError]]:
    """The newest good checkpoint of a ``checkpoints`` directory, and what is wrong with those after it.

    Args:
        directory: Where they are.
        before: Only checkpoints with a smaller number.
    """
    errors: list[CheckpointError] = []
    for path in reversed(checkpoints_in(directory)):
        place = place_of(path.name)
        if before is not None and place is not None and place.number >= before:
            continue
        try:
            return read_checkpoint(path), errors
        except CheckpointError as error:
            errors.append(error)
    return None, errors


def put_aside(damaged: Path) -> None:
    """Rename a damaged checkpoint, so that it is no longer taken for one of the run's."""
    damaged.rename(damaged.with_name(DAMAGED + damaged.name))
