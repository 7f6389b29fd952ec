"""``gradledger train``: the reference training run."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from gradledger.cli._console import make_console

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
    try:
        with working_directory_importable():
            status = _train(config, overrides or [], table, watch, tensorboard)
    except KeyboardInterrupt:  # before training began, or a second time: there is nothing more to save
        status = INTERRUPTED_STATUS
    raise typer.Exit(status)


def _train(path: Path | None, overrides: list[str], table: bool, watch: bool, tensorboard: Path | None) -> int:
    from gradledger.train.config import load_config

    checked = load_config(path, overrides)  # before torch is imported: a mistake is told at once
    from gradledger.engine import NonFiniteError
    from gradledger.report import print_summary, read_runs, write_report, write_tensorboard
    from gradledger.train import Observer, Run, RunDirectory, RunFiles, prepare
    from gradledger.train.terminal import TerminalView, print_results
    from gradledger.train.watching import Refresher

    setup = prepare(checked)
    directory = RunDirectory.create(checked.output, checked.name, stem=checked.data.name.replace(":", "-"))
    report = directory.path / "report.html"
    console = make_console()
    observers: list[Observer] = [RunFiles(directory, setup.model), TerminalView(console, table=table)]
    if watch:
        typer.echo(f"Open {report}: it renews itself while the run goes on.", err=True)
        observers.append(Refresher(lambda: write_report([directory.path], report)))
    run = Run(setup, observers)
    status = 0
    try:
        summary = run.train()
    except NonFiniteError as error:
        typer.echo(f"gradledger: training failed: {error}\nWhat was learnt before is in {directory.path}", err=True)
        status = FAILED_STATUS
    else:
        print_results(console, summary, run.evaluations, setup.config, str(directory.path))
        if summary.exit == "interrupted":
            typer.echo(
                f"Interrupted after update {summary.num_updates}: "
                "the open window was voided, what was learnt before it is saved.",
                err=True,
            )
            status = INTERRUPTED_STATUS
    print_summary(directory.path)
    write_report([directory.path], report)
    if tensorboard is not None:
        write_tensorboard(read_runs([directory.path]), tensorboard)
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
