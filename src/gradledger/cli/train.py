"""``gradledger train``: the reference training run."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradledger.cli import USAGE_STATUS
from gradledger.cli._console import make_console
from gradledger.errors import UserError

if TYPE_CHECKING:
    from gradledger.train import Observer, Run
    from gradledger.train.ranks import RunRanks
    from gradledger.train.setup import Setup

INTERRUPTED_STATUS = 130
FAILED_STATUS = 1


def train(
    config: Annotated[
        Path | None, typer.Argument(help="A YAML file. Left out: the built-in digits, 16 × 4 = 64.")
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
) -> None:
    """Train a model with gradient accumulation, and show what happened to its gradients."""
    from gradledger.train.ranks import joined

    try:
        with working_directory_importable(), joined() as ranks:
            options = _Options(config, overrides or [], table, watch, tensorboard)
            status = _train(ranks, options)
    except KeyboardInterrupt:  # before training began, or a second time: there is nothing more to save
        status = INTERRUPTED_STATUS
    raise typer.Exit(status)


@dataclass(frozen=True)
class _Options:
    config: Path | None
    overrides: list[str]
    table: bool
    watch: bool
    tensorboard: Path | None


def _train(ranks: "RunRanks", options: _Options) -> int:
    """Prepare and run; what all ranks have to say, the first one says."""
    from gradledger.train.config import load_config

    try:
        # Before torch is imported, where this process is alone: a mistake is told at once.
        config = ranks.together(lambda: load_config(options.config, options.overrides), "reading of the configuration")
        from gradledger.train import Run, prepare

        setup = prepare(config, ranks=ranks)
        directory, files = _open_files(setup)
        run = Run(setup, _observers(setup, directory, files, options))
    except UserError:
        if ranks.is_first:
            raise
        return USAGE_STATUS
    status = _run(run, directory)
    if ranks.is_first:
        _report(directory, options)
    return status


def _open_files(setup: "Setup") -> "tuple[Path, Observer]":
    """The run directory, made by the first rank and known to all, and what writes this rank's part of it."""
    from gradledger.train.files import RankLedger, RunFiles
    from gradledger.train.run_directory import RunDirectory

    config, ranks = setup.config, setup.ranks

    def make() -> RunDirectory | None:
        stem = config.data.name.replace(":", "-")
        return RunDirectory.create(config.output, config.name, stem=stem) if ranks.is_first else None

    made = ranks.together(make, "making of the run directory")
    path = ranks.gather(None if made is None else made.path, "exchange of its name")[0]
    assert path is not None
    return path, RankLedger(path, ranks.rank) if made is None else RunFiles(made)


def _observers(setup: "Setup", directory: Path, files: "Observer", options: _Options) -> "list[Observer]":
    from gradledger.report import write_report
    from gradledger.train.terminal import TerminalView
    from gradledger.train.watching import Refresher

    if not setup.ranks.is_first:
        return [files]
    observers: list[Observer] = [files, TerminalView(make_console(), table=options.table)]
    if options.watch:
        report = directory / "report.html"
        typer.echo(f"Open {report}: it renews itself while the run goes on.", err=True)
        observers.append(Refresher(lambda: write_report([directory], report)))
    return observers


def _run(run: "Run", directory: Path) -> int:
    from gradledger.engine import NonFiniteError, RankError
    from gradledger.train.terminal import print_results

    is_first = run.setup.ranks.is_first
    try:
        summary = run.train()
    except (NonFiniteError, RankError) as error:
        if is_first:
            what_for = f"What was learnt before is in {directory}"
            typer.echo(f"gradledger: training failed: {error}\n{what_for}", err=True)
        return FAILED_STATUS
    if is_first:
        print_results(make_console(), summary, run.evaluations, run.setup.config, str(directory))
    if summary.exit != "interrupted":
        return 0
    if is_first:
        typer.echo(
            f"Interrupted after update {summary.num_updates}: "
            "the open window was voided, what was learnt before it is saved.",
            err=True,
        )
    return INTERRUPTED_STATUS


def _report(directory: Path, options: _Options) -> None:
    from gradledger.report import print_summary, read_runs, write_report, write_tensorboard

    print_summary(directory)
    write_report([directory], directory / "report.html")
    if options.tensorboard is not None:
        write_tensorboard(read_runs([directory]), options.tensorboard)


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
