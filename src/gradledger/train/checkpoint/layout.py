"""Names, versions and the manifest of a checkpoint. Nothing here imports torch."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gradledger.errors import UserError
from gradledger.printing import shown
from gradledger.reading import read_file

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MODEL = "model.safetensors"
TENSORS = "state.safetensors"
STATE = "state.json"
FILES = (MODEL, TENSORS, STATE)

PARTS = "parts"
"""The directory of tensors that ranks hold parts of, a file of each rank."""

_OF_RANKS = re.compile(rf"rank-\d+\.(?:json|safetensors)|{PARTS}/shard-[\w-]+\.safetensors")
"""Further files of a run of several ranks."""

LATEST = "latest"
"""A file that holds the name of the newest checkpoint."""

UNFINISHED = ".unfinished-"
"""What the names of directories begin with that are being written or removed."""

DAMAGED = "damaged-"
"""What the name of a checkpoint begins with that was found damaged and put aside."""

_NAME = re.compile(r"(\d{6,})-update-(\d{6,})(?:-micro-batch-(\d+))?")
_CHUNK_BYTES = 1 << 20
_MOST_MANIFEST_BYTES = 1 << 20


class CheckpointError(UserError):
    """A checkpoint cannot be used: the message names it and says what is wrong."""


class Place(NamedTuple):
    """Where in its run a checkpoint was made.

    Args:
        number: Counts the run's checkpoints, from 1.
        update: Updates made.
        micro_batch: Micro-batches done with in the open window; None between windows.
    """

    number: int
    update: int
    micro_batch: int | None = None

    @property
    def name(self) -> str:
        """The directory's name.

        Example:
            >>> Place(7, 161).name, Place(8, 161, 2).name
            ('000007-update-000161', '000008-update-000161-micro-batch-2')
        """
        inside = "" if self.micro_batch is None else f"-micro-batch-{self.micro_batch}"
        return f"{self.number:06d}-update-{self.update:06d}{inside}"


def place_of(name: str) -> Place | None:
    """The place that a directory's name says; None where it is no checkpoint's."""
    match = _NAME.fullmatch(name)
    return None if match is None else Place(*(None if group is None else int(group) for group in match.groups()))  # type: ignore[arg-type]


def checkpoints_in(directory: Path) -> list[Path]:
    """The checkpoints of a ``checkpoints`` directory, the oldest first, good or damaged."""
    try:
        found = [(place, path) for path in directory.iterdir() if (place := place_of(path.name)) is not None]
    except OSError:
        return []
    return [path for _, path in sorted(found, key=lambda pair: pair[0].number)]


class Extent(NamedTuple):
    """A file up to some byte."""

    num_bytes: int
    sha256: str


def extent_in(value: Any) -> Extent:
    """An extent from JSON.

    Raises:
        ValueError: It is none.
    """
    is_whole = isinstance(value, dict) and set(value) == set(Extent._fields) and isinstance(value["sha256"], str)
    if not is_whole or not _is_count(value["num_bytes"]):
        raise ValueError(f"{shown(value)} is no number of bytes with their SHA-256")
    return Extent(**value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def extent_of(path: Path, num_bytes: int | None = None) -> Extent:
    """A file as it is, or only its first bytes, of which there may be fewer."""
    if not path.is_file() and path.exists():  # a pipe would be waited for, a device may have no end
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    digest, num_read = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES if num_bytes is None else min(_CHUNK_BYTES, num_bytes - num_read)):
            digest.update(chunk)
            num_read += len(chunk)
    return Extent(num_read, digest.hexdigest())


def manifest_bytes(record: Mapping[str, Any]) -> bytes:
    """A manifest as it is written: one line of JSON whose last key is the SHA-256 of the line without it."""
    body = _canonical(record)
    return _canonical({**record, "sha256": hashlib.sha256(body).hexdigest()}) + b"\n"


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        CheckpointError: There is none, it is damaged, of another program or of a newer version.
    """
    try:
        raw = read_file(path / MANIFEST, most_bytes=_MOST_MANIFEST_BYTES)
    except FileNotFoundError:
        reason = (
            f"it has no {MANIFEST}" if path.is_dir() else "it is no directory" if path.exists() else "it is not there"
        )
        raise CheckpointError(f"{path} is no checkpoint: {reason}") from None
    except UserError as error:
        raise CheckpointError(f"{path / MANIFEST} is damaged: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path / MANIFEST} cannot be read: {error.strerror}") from None
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path / MANIFEST} is damaged: it is not JSON") from None
    if not isinstance(record, dict) or "gradledger_checkpoint" not in record:
        raise CheckpointError(f"{path} is no checkpoint of Gradledger: {MANIFEST} does not say so")
    if record["gradledger_checkpoint"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {record['gradledger_checkpoint']!r}; this version reads {FORMAT_VERSION}"
        )
    record.pop("sha256", None)
    if raw != manifest_bytes(record):
        raise CheckpointError(f"{path / MANIFEST} is damaged: its SHA-256 is not the one it says")
    try:
        _check_fields(record)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{path / MANIFEST} is damaged: {error}") from None
    return record


def files_of_rank(rank: int) -> tuple[str, str]:
    """The files of what a rank above 0 does not share with the first: plain data, and tensors."""
    return f"rank-{rank}.json", f"rank-{rank}.safetensors"


def _check_fields(record: Mapping[str, Any]) -> None:
    for name in ("number", "update", "micro_batch"):
        if not _is_count(record[name]) and not (name == "micro_batch" and record[name] is None):
            raise ValueError(f"{name} is {shown(record[name])}")
    files = record["files"]
    if not isinstance(files, dict) or not _are_files(files):
        raise ValueError(f"its files are not {', '.join(FILES)} and those of ranks")
    for extent in files.values():
        extent_in(extent)


def _are_files(names: Mapping[str, Any]) -> bool:
    return set(FILES) <= set(names) and all(map(_OF_RANKS.fullmatch, set(names) - set(FILES)))


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode()
