"""Opens the files of a run: new ones, or those of the run that is gone on with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gradledger.errors import UserError
from gradledger.train.checkpoint.keeping import Keeper
from gradledger.train.checkpoint.locking import Lock
from gradledger.train.config import TrainConfig
from gradledger.train.files import RankLedger, RunFiles
from gradledger.train.ranks import RunRanks
from gradledger.train.records import Observer
from gradledger.train.redistributing import placing_of
from gradledger.train.resuming import Resumption
from gradledger.train.run_directory import Lines, RunDirectory
from gradledger.train.setup import Setup
from gradledger.train.write_errors import WriteErrors


class OpenRun(NamedTuple):
    """The files of a run.

    Args:
        path: The run directory.
        files: What writes this rank's part of it.
        errors: What becomes of a file that cannot be written.
        keeper: What makes checkpoints.
        lock: Keeps other processes from writing this run for as long as this is held.
    """

    path: Path
    files: Observer
    errors: WriteErrors
    keeper: Keeper | None = None
    lock: Lock | None = None


def open_run(setup: Setup, resumption: Resumption | None, tell: Callable[[str], None]) -> OpenRun:
    """The run directory, made by the first rank and known to all.

    Args:
        setup: What is trained.
        resumption: What is gone on from; None: a new run.
        tell: Told a line when a file cannot be written, and when it can be again.

    Raises:
        UserError: A file cannot be made or opened.
    """
    config, ranks = setup.config, setup.ranks
    errors = WriteErrors(config.on_write_error, tell)

    def make() -> _Written | None:
        return _open(setup, resumption) if ranks.is_first else None

    written = ranks.together(make, "making of the run directory")
    path = ranks.gather(None if written is None else written.directory.path, "exchange of its name")[0]
    assert path is not None
    is_shared = _is_shared(path / "checkpoints", ranks, tell)
    lines = None if resumption is None else resumption.lines
    files: RunFiles | RankLedger
    sync: Callable[[], Lines]
    if written is None:
        own = ranks.together(lambda: _rank_ledger(path, ranks.rank, lines, errors), "opening of the ledgers")
        files, sync = own, own.sync
    else:
        ranks.total("opening of the ledgers")
        files, sync = RunFiles(written.directory, errors), written.directory.sync
    keeper = _keeper(config, path, sync, errors if ranks.is_first else WriteErrors(config.on_write_error), ranks)
    return OpenRun(path, files, errors, keeper if is_shared else None, None if written is None else written.lock)


def _rank_ledger(path: Path, rank: int, lines: Lines | None, errors: WriteErrors) -> RankLedger:
    try:
        return RankLedger(path, rank, lines, errors)
    except OSError as error:
        raise UserError(f"the ledger of rank {rank} in {path} cannot be written: {error.strerror}") from None


def load_state(resumption: Resumption, setup: Setup) -> dict[str, Any] | None:
    """What a run goes on from; None where it begins again. All ranks come here.

    Raises:
        CheckpointError: It cannot be read.
        UserError: The ranks found unlike checkpoints.
    """
    ranks, checkpoint = setup.ranks, resumption.checkpoint
    names = ranks.gather(None if checkpoint is None else checkpoint.path.name, "comparison of the checkpoints")
    if len(set(names)) > 1:
        raise UserError(
            f"the ranks do not see the same checkpoints in {resumption.directory} (the newest ones are "
            f"{', '.join(map(str, names))}): they must share one directory"
        )
    if checkpoint is None:
        return None
    rank = ranks.rank if checkpoint.num_ranks == ranks.size else 0
    placing = placing_of(setup.model, setup.optimizer)
    return ranks.together(lambda: checkpoint.load(placing, rank), "reading of the checkpoint")


def _keeper(config: TrainConfig, path: Path, sync: Callable[[], Lines], errors: WriteErrors, ranks: RunRanks) -> Keeper:
    try:
        return Keeper(path / "checkpoints", config.keep_checkpoints, sync, errors, ranks)
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be written: {error.strerror}") from None


def _is_shared(directory: Path, ranks: RunRanks, tell: Callable[[str], None]) -> bool:
    """Whether all ranks see one directory, so that they can make checkpoints in it together."""
    seen = ranks.gather(_identity(directory), "comparison of directories")
    unlike = [rank for rank, number in enumerate(seen) if number != seen[0]]
    if unlike:
        tell(
            f"No checkpoints are made: rank {unlike[0]} does not see {directory} of rank 0; let output be a directory "
            "that all machines share"
        )
    return not unlike


def _identity(directory: Path) -> int | None:
    return directory.stat().st_ino if directory.is_dir() else None


class _Written(NamedTuple):
    directory: RunDirectory
    lock: Lock


def _open(setup: Setup, resumption: Resumption | None) -> _Written:
    config = setup.config
    try:
        if resumption is None:
            directory = RunDirectory.create(config.output, config.name, stem=config.stem)
            lock = Lock(directory.checkpoints)
        else:
            lock = Lock(resumption.directory / "checkpoints")
            resumption.settle()
            directory = RunDirectory(resumption.directory, is_resumed=True, lines=resumption.lines)
            directory.cut_rank_ledgers(resumption.lines or {}, setup.ranks.size)
    except OSError as error:
        what = error.filename or "the run directory"
        raise UserError(f"{what} cannot be written: {error.strerror}") from None
    return _Written(directory, lock)
