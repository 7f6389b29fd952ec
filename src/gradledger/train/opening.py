"""Opens the files of a run: new ones, or those of the run that is gone on with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gradledger.errors import UserError
from gradledger.train.checkpoint.keeping import Keeper
from gradledger.train.checkpoint.locking import Lock
from gradledger.train.files import RankLedger, RunFiles
from gradledger.train.records import Observer
from gradledger.train.resuming import Resumption
from gradledger.train.run_directory import RunDirectory
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
    if resumption is not None and ranks.size > 1:
        raise UserError("a run of several ranks has no checkpoints yet: start a new one, without --resume")

    errors = WriteErrors(config.on_write_error, tell)

    def make() -> _Written | None:
        return _open(setup, resumption, errors) if ranks.is_first else None

    written = ranks.together(make, "making of the run directory")
    path = ranks.gather(None if written is None else written.directory.path, "exchange of its name")[0]
    assert path is not None
    if written is None:
        return OpenRun(path, RankLedger(path, ranks.rank), errors)
    keeper = written.keeper if ranks.size == 1 else None
    return OpenRun(path, RunFiles(written.directory, errors), errors, keeper, written.lock)


class _Written(NamedTuple):
    directory: RunDirectory
    keeper: Keeper
    lock: Lock


def _open(setup: Setup, resumption: Resumption | None, errors: WriteErrors) -> _Written:
    config = setup.config
    try:
        if resumption is None:
            directory = RunDirectory.create(config.output, config.name, stem=config.stem)
            lock = Lock(directory.checkpoints)
        else:
            lock = Lock(resumption.directory / "checkpoints")
            resumption.settle()
            directory = RunDirectory(resumption.directory, is_resumed=True, lines=resumption.lines)
        keeper = Keeper(directory.checkpoints, config.keep_checkpoints, directory.sync, errors)
    except OSError as error:
        what = error.filename or "the run directory"
        raise UserError(f"{what} cannot be written: {error.strerror}") from None
    return _Written(directory, keeper, lock)
