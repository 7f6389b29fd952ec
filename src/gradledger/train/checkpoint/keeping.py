"""Makes the checkpoints of a run that goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gradledger.train.checkpoint.layout import DAMAGED, Extent, Place, place_of
from gradledger.train.checkpoint.making import write_checkpoint
from gradledger.train.checkpoint.writing import tidy
from gradledger.train.ranks import RunRanks
from gradledger.train.write_errors import WriteErrors


class Keeper:
    """Writes a run's checkpoints into its directory, and keeps the last ones; of several ranks each has one.

    Args:
        directory: The run's ``checkpoints`` directory.
        keep: How many are kept.
        sync: Has the run's own files reach the disk, and says how far they go.
        errors: What becomes of a checkpoint that cannot be written.
        ranks: Those that train together; None: this process alone.
    """

    def __init__(
        self,
        directory: Path,
        keep: int,
        sync: Callable[[], Mapping[str, Extent]],
        errors: WriteErrors,
        ranks: RunRanks | None = None,
    ) -> None:
        self._directory = directory
        self._keep = keep
        self._sync = sync
        self._errors = errors
        self._ranks = ranks or RunRanks()
        self.latest: Path | None = None
        self._number = self._ranks.attempt(self._begin, "beginning of the checkpoints")[0]

    def save(self, state: Mapping[str, Any], *, update: int, micro_batch: int | None) -> None:
        """Write a checkpoint; all ranks come here.

        Args:
            state: What the run goes on from.
            update: Updates made.
            micro_batch: Micro-batches done with in the open window; None between windows.

        Raises:
            WriteError: It cannot be written, and the run stops for it.
            UserError: The state holds something that cannot be kept.
        """
        with self._errors.guarded(self._directory):
            self._number += 1
            place = Place(self._number, update, micro_batch)
            lines: dict[str, Extent] = {}
            for of_rank in self._ranks.attempt(self._sync, "syncing of files"):
                lines.update(of_rank)
            self.latest = write_checkpoint(self._directory, place, state, lines, keep=self._keep, ranks=self._ranks)

    def _begin(self) -> int:
        if not self._ranks.is_first:
            return 0
        tidy(self._directory)
        return max(map(_number_of, self._directory.iterdir()), default=0)


def _number_of(path: Path) -> int:
    place = place_of(path.name.removeprefix(DAMAGED))
    return 0 if place is None else place.number
