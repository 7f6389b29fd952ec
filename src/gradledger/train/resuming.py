"""Which run to go on with, from which of its checkpoints, and whether the configuration is still the same."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradledger.errors import UserError
from gradledger.printing import shown
from gradledger.train.checkpoint.layout import LATEST, CheckpointError, Extent, checkpoints_in, place_of
from gradledger.train.checkpoint.reading import Checkpoint, check_ranks, newest_good, put_aside, read_checkpoint
from gradledger.train.checkpoint.writing import remove_checkpoint, replace_file
from gradledger.train.config import AUTO_SIZE, TrainConfig, load_config
from gradledger.train.run_directory import CONFIG, LEDGER, METRICS

AUTO = "auto"

_KEYS_OF_RANKS = {"parallel", "sync"}
"""What may be changed together with the number of ranks, which changes the order of sums."""

_FREE_KEYS = {"name", "output", "checkpoint_every", "keep_checkpoints", "on_write_error", "num_workers"}
"""What may be changed when a run is gone on with: it changes nothing that is computed."""


class FinishedError(UserError):
    """The run that was to be gone on with has been finished."""


@dataclass(frozen=True)
class Resumption:
    """A run that is gone on with.

    Args:
        directory: The run directory.
        checkpoint: Where it goes on from; None: it was ended before its first checkpoint, and begins again.
        damaged: What is wrong with newer checkpoints, which are passed over.
    """

    directory: Path
    checkpoint: Checkpoint | None
    damaged: Sequence[CheckpointError] = ()

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the run was begun with; empty where it begins again."""
        return {} if self.checkpoint is None else self.checkpoint.config

    def config_for(self, num_ranks: int) -> dict[str, Any]:
        """The configuration that as many ranks go on with: the effective batch stays."""
        config = self.config
        if self.checkpoint is None or self.checkpoint.num_ranks == num_ranks:
            return config
        num_samples = config["micro_batch_size"] * config["steps"] * self.checkpoint.num_ranks
        return {**config, "steps": None, "effective_batch_size": num_samples}

    @property
    def lines(self) -> dict[str, Extent] | None:
        """How far the run's files went; None where it begins again."""
        return None if self.checkpoint is None else self.checkpoint.lines

    def describe(self) -> str:
        """One line about what is gone on from, and one for each checkpoint that is passed over."""
        passed_over = [f"{error}; it is passed over" for error in self.damaged]
        if self.checkpoint is None:
            return "\n".join([*passed_over, f"{self.directory} has no checkpoint yet: it begins again"])
        place = self.checkpoint.place
        inside = "" if place.micro_batch is None else f" and micro-batch {place.micro_batch} of the next"
        return "\n".join([*passed_over, f"Going on from {self.checkpoint.path}, after update {place.update}{inside}"])

    def settle(self) -> None:
        """Leave nothing that is newer than the checkpoint that is gone on from, except lines, which are cut off later.

        Damaged checkpoints are put aside under another name; good ones belong to a way that the run does not take, and
        are removed.
        """
        if self.checkpoint is None:
            for path in (self.directory / name for name in (CONFIG, LEDGER, METRICS)):
                path.unlink(missing_ok=True)
            return
        checkpoints = self.checkpoint.path.parent
        newer = [path for path in checkpoints_in(checkpoints) if _number(path) > self.checkpoint.place.number]
        replace_file(checkpoints / LATEST, f"{self.checkpoint.path.name}\n".encode())  # never names one that is gone
        for path in newer:
            (remove_checkpoint if _is_good(path) else put_aside)(path)


def load_run(
    path: Path | None, overrides: Sequence[str], resume: str | None, num_ranks: int = 1
) -> tuple[TrainConfig, Resumption | None]:
    """The configuration of a run, and what it goes on from.

    Args:
        path: A YAML file. None: the configuration of the run that is gone on with, or every default.
        overrides: ``key=value`` texts.
        resume: ``"auto"``, a run directory, or a checkpoint. None: a new run.
        num_ranks: The ranks that are to go on.

    Raises:
        UserError: The configuration is wrong, or there is nothing to go on from.
    """
    if resume is None:
        return load_config(path, overrides), None
    if resume == AUTO:
        config = load_config(path, overrides)
        found = find_run(config, num_ranks)
        return _sized_as_begun(config, found), found
    resumption = resume_from(Path(resume), num_ranks)
    written = resumption.directory / CONFIG
    if path is None and resumption.checkpoint is None and written.is_file():
        path = written
    return _sized_as_begun(load_config(path, overrides, resumption.config_for(num_ranks)), resumption), resumption


def _sized_as_begun(config: TrainConfig, resumption: Resumption | None) -> TrainConfig:
    """With the micro-batch size that was measured when the run was begun, where it is left open."""
    if resumption is None or not resumption.config or config.micro_batch_size != AUTO_SIZE:
        return config
    return config.sized(_begun_size(resumption))


def _begun_size(resumption: Resumption) -> int:
    size = resumption.config.get("micro_batch_size")
    if not isinstance(size, int) or size < 1:
        raise CheckpointError(f"{resumption.directory} was begun with micro_batch_size {shown(size)}, which is no size")
    return size


def resume_from(path: Path, num_ranks: int = 1) -> Resumption:
    """The run of a checkpoint, or of a run directory whose newest good checkpoint is gone on from.

    Raises:
        CheckpointError: The checkpoint cannot be used; the message names the newest older one that can.
        UserError: There is no run.
        FinishedError: The run is over.
    """
    if place_of(path.name) is not None:
        return Resumption(path.parent.parent, _read(path, num_ranks))
    if not path.is_dir():
        raise UserError(f"{path} cannot be resumed: it is neither a run directory nor a checkpoint of one")
    return _newest_of(path, num_ranks)


def find_run(config: TrainConfig, num_ranks: int = 1) -> Resumption | None:
    """The run that a configuration would go on with: of its name, or else the one of its data that was last written to.

    Returns:
        None where there is none, or the last one without a name is finished.

    Raises:
        CheckpointError: The run has checkpoints, but none of them is good.
        FinishedError: The run of that name is over.
    """
    root = Path(config.output)
    if config.name is not None:
        path = root / config.name
        return _newest_of(path, num_ranks) if _holds_something(path) else None
    pattern = re.compile(rf"{re.escape(config.stem)}-\d+")
    found = [path for path in _children(root) if pattern.fullmatch(path.name) and (path / LEDGER).is_file()]
    last = max(found, key=lambda path: (path / LEDGER).stat().st_mtime_ns, default=None)
    return None if last is None or is_finished(last) else _newest_of(last, num_ranks)


def check_same(config: TrainConfig, resumption: Resumption) -> None:
    """Refuse a configuration that would compute something else than the run did so far.

    Raises:
        UserError: It would; the message has the keys with both values.
    """
    before, now = resumption.config, json.loads(json.dumps(config.model_dump()))
    free = set(_FREE_KEYS)
    if resumption.checkpoint is not None and resumption.checkpoint.num_ranks != config.num_ranks:
        _check_tail(config, resumption.checkpoint)
        free |= _KEYS_OF_RANKS
        before["steps"] = before["steps"] * resumption.checkpoint.num_ranks / config.num_ranks
    changed = [key for key in now if before and key not in free and before.get(key) != now[key]]
    if changed:
        listed = "; ".join(f"{key} was {before.get(key)!r} and is {now[key]!r}" for key in changed)
        raise UserError(
            f"{resumption.directory} was begun with another configuration: {listed}. Go on with the one in its "
            "config.yaml, or begin a run of another name"
        )


def _check_tail(config: TrainConfig, checkpoint: Checkpoint) -> None:
    if config.tail == "carry":
        raise UserError(
            f"{checkpoint.path} was made by {checkpoint.num_ranks} ranks with tail: carry, whose windows over the end "
            f"of an epoch {config.num_ranks} ranks would cut in another way: go on with {checkpoint.num_ranks} ranks"
        )


def is_finished(directory: Path) -> bool:
    """Whether the last line of a run's metrics says that it came to its end."""
    try:
        last = (directory / METRICS).read_bytes().rstrip(b"\n").rpartition(b"\n")[2]
        record = json.loads(last)
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(record, Mapping) or record.get("incomplete"):
        return False
    return record.get("kind") == "summary" and record.get("exit") == "finished"


def _newest_of(directory: Path, num_ranks: int) -> Resumption:
    if is_finished(directory):
        raise FinishedError(f"{directory} is finished: there is nothing to go on with")
    checkpoint, errors = newest_good(directory / "checkpoints", num_ranks=num_ranks)
    if checkpoint is None and errors:
        raise CheckpointError(f"{directory} has no good checkpoint: {'; '.join(map(str, errors))}")
    return Resumption(directory, checkpoint, errors)


def _read(path: Path, num_ranks: int) -> Checkpoint:
    try:
        found = read_checkpoint(path)
        check_ranks(found, num_ranks)
        return found
    except CheckpointError as error:
        older, _ = newest_good(path.parent, before=_number(path), num_ranks=num_ranks)
        advice = "there is no good one before it" if older is None else f"the newest good one before it is {older.path}"
        raise CheckpointError(f"{error}; {advice}") from None


def _is_good(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _number(path: Path) -> int:
    place = place_of(path.name)
    assert place is not None
    return place.number


def _holds_something(path: Path) -> bool:
    try:
        return path.is_dir() and any(path.iterdir())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _children(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if path.is_dir()]
    except OSError:
        return []
