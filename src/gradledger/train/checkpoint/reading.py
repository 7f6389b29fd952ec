"""Reading checkpoints back: each is checked whole before anything in it is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradledger.train.checkpoint.layout import (
    DAMAGED,
    STATE,
    CheckpointError,
    Extent,
    Place,
    checkpoints_in,
    extent_in,
    extent_of,
    files_of_rank,
    place_of,
    read_manifest,
)

if TYPE_CHECKING:
    from gradledger.train.checkpoint.parts import Placing


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
        """The configuration of the run.

        Raises:
            CheckpointError: There is none.
        """
        from gradledger.train.checkpoint.encoding import decode

        try:
            config = decode(self.plain["state"]["config"], {})
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
            config = None
        if not isinstance(config, dict):
            raise CheckpointError(f"{self.path / STATE} is damaged: it holds no configuration")
        return config

    @property
    def num_ranks(self) -> int:
        """The ranks that wrote it."""
        number: int = self.plain["num_ranks"]
        return number

    @property
    def lines(self) -> dict[str, Extent]:
        """How far the run's own files went."""
        return {name: extent_in(extent) for name, extent in self.plain["lines"].items()}

    def load(self, placing: Placing | None = None, rank: int = 0) -> dict[str, Any]:
        """The state that was written, its tensors on the CPU, except for those that ranks hold parts of.

        Args:
            placing: What ranks hold parts of; None: nothing.
            rank: Whose state it is to be, of those that wrote it.

        Raises:
            CheckpointError: The files are what the manifest says, but do not make a state.
        """
        from safetensors import SafetensorError

        from gradledger.train.checkpoint.encoding import decode
        from gradledger.train.checkpoint.parts import StoredTensors, weights_in, whole_everywhere

        placing = placing or whole_everywhere
        try:
            weights, tensors = weights_in(self.path, placing), StoredTensors(self.path, placing)
            state = {**decode(self.plain["state"], tensors), "model": decode(self.plain["model"], weights)}
            state["num_ranks"] = self.num_ranks
            if rank:
                plain, tensor_file = files_of_rank(rank)
                own = StoredTensors(self.path, whole_everywhere, tensor_file)
                state["of_rank"] = decode(json.loads((self.path / plain).read_bytes()), own)
            for stored in (weights, tensors):
                stored.fill()
            return state
        except (SafetensorError, OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{self.path} is damaged: {type(error).__name__}: {error}") from None


def read_checkpoint(path: Path) -> Checkpoint:
    """Check a checkpoint's files against their sizes and hashes.

    Raises:
        CheckpointError: It is damaged, cut short, foreign or newer; the message names the file and what is wrong.
    """
    manifest = read_manifest(path)
    for name, extent in manifest["files"].items():
        _check(path / name, extent_in(extent), extent_of, f"{path / name} is damaged")
    try:
        plain = json.loads((path / STATE).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path / STATE} is damaged: {error}") from None
    try:
        lines = _checked_lines(plain)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path / STATE} is damaged: {type(error).__name__}: {error}") from None
    for name, start in lines.items():
        what = f"{path} cannot be gone on from: {name} was changed since"
        _check(path.parent.parent / name, start, partial(extent_of, num_bytes=start.num_bytes), what)
    return Checkpoint(path, Place(manifest["number"], manifest["update"], manifest["micro_batch"]), plain)


def _checked_lines(plain: Any) -> dict[str, Extent]:
    """How far the run's files went, of a state that holds what each state must."""
    if not isinstance(plain, dict) or not {"state", "model"} <= set(plain):
        raise ValueError("it holds no state, or no model")
    if not isinstance(plain["num_ranks"], int) or plain["num_ranks"] < 1:
        raise ValueError("it does not say how many ranks wrote it")
    if any(Path(name).name != name for name in plain["lines"]):
        raise ValueError("it speaks of files outside the run directory")
    return {name: extent_in(extent) for name, extent in plain["lines"].items()}


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


def newest_good(
    directory: Path, *, before: int | None = None, num_ranks: int | None = None
) -> tuple[Checkpoint | None, list[CheckpointError]]:
    """The newest good checkpoint of a ``checkpoints`` directory, and what is wrong with those after it.

    Args:
        directory: Where they are.
        before: Only checkpoints with a smaller number.
        num_ranks: Only checkpoints that so many ranks can go on from; None: any.
    """
    errors: list[CheckpointError] = []
    for path in reversed(checkpoints_in(directory)):
        place = place_of(path.name)
        if before is not None and place is not None and place.number >= before:
            continue
        try:
            found = read_checkpoint(path)
            if num_ranks is not None:
                check_ranks(found, num_ranks)
            return found, errors
        except CheckpointError as error:
            errors.append(error)
    return None, errors


def check_ranks(checkpoint: Checkpoint, num_ranks: int) -> None:
    """Refuse a checkpoint inside a window where another number of ranks is to go on.

    Raises:
        CheckpointError: It is one.
    """
    if checkpoint.place.micro_batch is not None and checkpoint.num_ranks != num_ranks:
        raise CheckpointError(
            f"{checkpoint.path} is inside a window of {checkpoint.num_ranks} process, which {num_ranks} ranks cannot "
            "share out: they can go on from between windows"
        )


def put_aside(damaged: Path) -> None:
    """Rename a damaged checkpoint, so that it is no longer taken for one of the run's."""
    damaged.rename(damaged.with_name(DAMAGED + damaged.name))
