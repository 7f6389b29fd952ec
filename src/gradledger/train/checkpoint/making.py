"""Makes a checkpoint, with all ranks: each writes what only it has, and the first one what all share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gradledger import __version__
from gradledger.train.checkpoint.encoding import encode, is_in_parts
from gradledger.train.checkpoint.layout import (
    FILES,
    FORMAT_VERSION,
    LATEST,
    MANIFEST,
    MODEL,
    PARTS,
    STATE,
    TENSORS,
    UNFINISHED,
    Extent,
    Place,
    checkpoints_in,
    extent_of,
    files_of_rank,
    manifest_bytes,
)
from gradledger.train.checkpoint.parts import save_parts
from gradledger.train.checkpoint.writing import remove_checkpoint, replace_file, save_tensors, sync, write_synced
from gradledger.train.ranks import RunRanks


def write_checkpoint(
    directory: Path,
    place: Place,
    state: Mapping[str, Any],
    lines: Mapping[str, Extent],
    *,
    keep: int,
    ranks: RunRanks | None = None,
) -> Path:
    """Write a checkpoint, have ``latest`` name it, and remove the oldest ones; all ranks come here.

    Args:
        directory: The run's ``checkpoints`` directory.
        place: Where in the run this is.
        state: What is kept; ``state["model"]`` is the model's own state, ``state["of_rank"]`` what ranks do not share.
        lines: How far the run's own files had been written, by their names.
        keep: Checkpoints that are left, this one among them.
        ranks: Those that write it together; None: this process alone.

    Returns:
        The new checkpoint.

    Raises:
        OSError: A rank cannot write; nothing of it is left, and those there were are as they were.
        UserError: The state holds something that cannot be kept.
    """
    ranks = ranks or RunRanks()
    with ranks.telling():
        made = _Checkpoint(directory, place, state, lines, ranks)
    try:
        ranks.attempt(made.begin, "beginning of a checkpoint")
        ranks.attempt(made.write_own, "writing of a checkpoint")
        if made.parts:
            save_parts(made.parts, made.aside / PARTS)
        extents = ranks.attempt(made.measure_own, "measuring of a checkpoint")
        ranks.attempt(lambda: made.finish(extents), "end of a checkpoint")
    except BaseException:
        if ranks.is_first:
            shutil.rmtree(made.aside, ignore_errors=True)
        raise
    ranks.attempt(lambda: made.become_latest(keep), "naming of a checkpoint")
    return directory / place.name


class _Checkpoint:
    """One that is being made."""

    def __init__(
        self, directory: Path, place: Place, state: Mapping[str, Any], lines: Mapping[str, Extent], ranks: RunRanks
    ) -> None:
        self._directory, self._place, self._ranks = directory, place, ranks
        self.aside = directory / f"{UNFINISHED}{place.name}"
        model, self._weights = encode(state["model"], "model")
        shared, self._tensors = encode({name: part for name, part in state.items() if name != "model"}, "state")
        self._plain = {
            "model": model,
            "state": shared,
            "lines": {name: extent._asdict() for name, extent in lines.items()},
            "num_ranks": ranks.size,
        }
        self._of_rank = state.get("of_rank")
        self.parts = {n: tensor for n, tensor in {**self._weights, **self._tensors}.items() if is_in_parts(tensor)}

    def begin(self) -> None:
        """Make room."""
        if self._ranks.is_first:
            remove_checkpoint(self.aside)
            self.aside.mkdir()

    def write_own(self) -> None:
        """Write what this rank has, except parts of tensors."""
        if self._ranks.is_first:
            weights = self._whole(self._weights)
            save_tensors({name.removeprefix("model."): each for name, each in weights.items()}, self.aside / MODEL)
            save_tensors(self._whole(self._tensors), self.aside / TENSORS)
            write_synced(self.aside / STATE, _json(self._plain))
            return
        plain_file, tensor_file = files_of_rank(self._ranks.rank)
        plain, tensors = encode(self._of_rank, "of_rank")
        save_tensors(tensors, self.aside / tensor_file)
        write_synced(self.aside / plain_file, _json(plain))

    def measure_own(self) -> dict[str, Extent]:
        """Sizes and hashes of this rank's files."""
        rank = self._ranks.rank
        names = FILES if self._ranks.is_first else files_of_rank(rank)
        parts = [path.relative_to(self.aside).as_posix() for path in self.aside.glob(f"{PARTS}/shard-{rank + 1:05d}-*")]
        return {name: extent_of(self.aside / name) for name in (*names, *parts)}

    def finish(self, extents: list[dict[str, Extent]]) -> None:
        """Write the manifest, and rename the whole into place."""
        if not self._ranks.is_first:
            return
        files = {name: extent._asdict() for each in extents for name, extent in each.items()}
        manifest = {
            "gradledger_checkpoint": FORMAT_VERSION,
            "written_by": __version__,
            **self._place._asdict(),
            "files": files,
        }
        write_synced(self.aside / MANIFEST, manifest_bytes(manifest))
        for path in (*self.aside.glob(PARTS), self.aside):
            sync(path)
        self.aside.rename(self._directory / self._place.name)
        sync(self._directory)

    def become_latest(self, keep: int) -> None:
        """Have ``latest`` name it, and remove the oldest ones."""
        if self._ranks.is_first:
            replace_file(self._directory / LATEST, f"{self._place.name}\n".encode())
            for path in checkpoints_in(self._directory)[:-keep]:
                remove_checkpoint(path)

    def _whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in tensors.items() if name not in self.parts}


def _json(plain: Any) -> bytes:
    return json.dumps(plain, separators=(",", ":")).encode()
