"""``gradledger train``: the reference training run."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradledger.blaming import explained, is_foreign
from gradledger.cli import USAGE_STATUS
from gradledger.cli._console import make_console, tell
from gradledger.errors import UserError

if TYPE_CHECKING:
    from gradledger.train import Observer, Run
    from gradledger.train.opening import OpenRun
    from gradledger.train.ranks import RunRanks
    from gradledger.train.setup import Setup

FAILED_STATUS = 1
INTERRUPTED_STATUS = 130
TERMINATED_STATUS = 143
EXIT_STATUS = {
    "finished": 0,
    "failed": FAILED_STATUS,
    "interrupted": INTERRUPTED_STATUS,
    "terminated": TERMINATED_STATUS,
}


def train(
    config: Annotated[
        Path | None, typer.Argument(help="A YAML file. Left out: the built-in digits, 16 × 4 = 64.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="auto|PATH",
            help="Go on with a run: a run directory, one of its checkpoints, or auto for the one of the configuration.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Goes over the file, such as optimizer.lr=0.1."),
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Print the whole ledger, a micro-batch a line.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep report.html current while the run goes on.")] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write TensorBoard event files there at the end.")
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Measure micro_batch_size: auto anew, and do not remember it.")
    ] = False,
) -> None:
    """Train a model with gradient accumulation, and show what happened to its gradients."""
    from gradledger.train.ranks import joined

    try:
        with working_directory_importable(), joined() as ranks:
            options = _Options(config, resume, overrides or [], table, watch, tensorboard, cache=not no_cache)
            status = _train(ranks, options)
    except KeyboardInterrupt:  # before training began, or a second time: there is nothing more to save
        status = INTERRUPTED_STATUS
    raise typer.Exit(status)


@dataclass(frozen=True)
class _Options:
    config: Path | None
    resume: str | None
    overrides: list[str]
    table: bool
    watch: bool
    tensorboard: Path | None
    cache: bool


def _train(ranks: "RunRanks", options: _Options) -> int:
    """Prepare and run; what all ranks have to say, the first one says."""
    from gradledger.train.resuming import FinishedError, check_same, load_run

    say = tell if ranks.is_first else _tell_nobody
    try:
        # Before torch is imported, where this process is alone: a mistake is told at once.
        config, resumption = ranks.together(
            lambda: load_run(options.config, options.overrides, options.resume, ranks.size),
            "reading of the configuration",
        )
        from gradledger.train import Run, prepare
        from gradledger.train.opening import load_state, open_run

        setup = prepare(config, ranks=ranks, cache=options.cache)
        state = None
        if resumption is not None:
            check_same(setup.config, resumption)
            state = load_state(resumption, setup)
            say(resumption.describe())
        opened = open_run(setup, resumption, say)
        run = Run(setup, _observers(setup, opened, options), keeper=opened.keeper)
    except FinishedError as finished:
        say(str(finished))
        return 0
    except Exception as error:
        if not ranks.is_first and isinstance(error, UserError):
            return USAGE_STATUS
        if isinstance(error, UserError | OSError) or not is_foreign(error):
            raise
        raise UserError(f"what the configuration names fails with {explained(error)}") from error
    status = _run(run, state, opened.path, say)
    return _report(opened.path, options, status) if ranks.is_first else status


def _tell_nobody(_line: str) -> None:
    """Another rank says it."""


def _observers(setup: "Setup", opened: "OpenRun", options: _Options) -> "list[Observer]":
    from gradledger.report import write_report
    from gradledger.train.terminal import TerminalView
    from gradledger.train.watching import Refresher

    if not setup.ranks.is_first:
        return [opened.files]
    observers: list[Observer] = [opened.files, TerminalView(make_console(), table=options.table)]
    if options.watch:
        report = opened.path / "report.html"
        tell(f"Open {report}: it renews itself while the run goes on.")

        def refresh() -> None:
            with opened.errors.guarded(report):
                write_report([opened.path], report)

        observers.append(Refresher(refresh))
    return observers


def _run(run: "Run", state: dict[str, Any] | None, directory: Path, say: Callable[[str], None]) -> int:
    from gradledger.engine import NonFiniteError, RankError
    from gradledger.engine.memory.limits import is_out_of_memory
    from gradledger.train.terminal import print_results
    from gradledger.train.write_errors import WriteError

    try:
        summary = run.train(state)
    except (NonFiniteError, RankError, WriteError) as error:
        say(f"gradledger: training failed: {error}\n{_what_is_kept(run, directory)}")
        return FAILED_STATUS
    except Exception as error:
        if not is_out_of_memory(error) and not is_foreign(error):
            raise
        reason = " ".join([explained(error), *getattr(error, "__notes__", ())])
        say(f"gradledger: training failed: {reason}\n{_what_is_kept(run, directory)}")
        return FAILED_STATUS
    if run.setup.ranks.is_first:
        print_results(make_console(), summary, run.evaluations, run.setup.config, str(directory))
    if summary.exit != "finished":
        say(f"{summary.exit.capitalize()} after update {summary.num_updates}. {_what_is_kept(run, directory)}")
    return EXIT_STATUS[summary.exit]


def _what_is_kept(run: "Run", directory: Path) -> str:
    latest = None if run.keeper is None else run.keeper.latest
    if latest is None:
        return f"What was learnt is in {directory}; no checkpoint was made"
    return f"Go on from {latest.name} with: gradledger train --resume {directory}"


def _report(directory: Path, options: _Options, status: int) -> int:
    """Show what the run came to; the status is that of a failure where it cannot be written."""
    from gradledger.report import print_summary, read_runs, write_report, write_tensorboard

    print_summary(directory)
    try:
        write_report([directory], directory / "report.html")
        if options.tensorboard is not None:
            write_tensorboard(read_runs([directory]), options.tensorboard)
    except OSError as error:
        tell(f"gradledger: the report of {directory} cannot be written: {error.strerror or error}")
        return status or FAILED_STATUS
    return status


@contextmanager
def working_directory_importable() -> Iterator[None]:
    """``package.module:callable`` finds the user's modules here, as under ``python -m``."""
    directory = str(Path.cwd())
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        if directory in sys.path:
            sys.path.remove(directory)
