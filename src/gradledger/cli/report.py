"""``gradledger report``."""

from pathlib import Path
from typing import Annotated

import typer

from gradledger.cli._console import tell, write
from gradledger.errors import UserError


def report(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_DIR...",
            help="Run directories, a directory of them, or one JSON file that audit, lint, verify or plan wrote.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="Where to write: a file, or - for standard output. Default: report.html in the run directory."
        ),
    ] = None,
    format: Annotated[str, typer.Option(help="html, markdown or json.")] = "html",
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write TensorBoard event files there as well.")
    ] = None,
) -> None:
    """Draw runs: loss, gradients, metrics, the ledger, and whether all is well."""
    from gradledger.report import FORMATS, page_of, render, write_atomically, write_tensorboard
    from gradledger.report.runs import read_runs

    if format not in FORMATS:
        raise UserError(f"no format {format!r}: choose one of {', '.join(FORMATS)}")
    text = render(page_of(run_dirs), format)
    if output == Path("-") or (output is None and format != "html"):
        write(text)
    else:
        path = write_atomically(text, output or _default_output(run_dirs[0]))
        tell(f"report written to {path}")
    if tensorboard is not None:
        for directory in write_tensorboard(read_runs(run_dirs), tensorboard):
            tell(f"events written to {directory}")


def _default_output(first: Path) -> Path:
    return first.with_suffix(".html") if first.is_file() else first / "report.html"
