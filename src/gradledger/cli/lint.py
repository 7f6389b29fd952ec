"""``gradledger lint``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from gradledger.cli._console import tell, write
from gradledger.errors import UserError
from gradledger.reading import read_file

_UNREADABLE_STATUS = 2


def lint(
    paths: Annotated[list[Path] | None, typer.Argument(help="Files and folders; - reads standard input.")] = None,
    format_name: Annotated[str, typer.Option("--format", help="text, json, sarif or github.")] = "text",
    output: Annotated[Path | None, typer.Option("--output", help="Write findings to this file.")] = None,
    select: Annotated[list[str] | None, typer.Option("--select", help="Only these rules, codes or families.")] = None,
    ignore: Annotated[list[str] | None, typer.Option("--ignore", help="Not these rules, codes or families.")] = None,
    stdin_filename: Annotated[str, typer.Option("--stdin-filename", help="What to call standard input.")] = "stdin.py",
    statistics: Annotated[bool, typer.Option("--statistics", help="Only count findings, by rule.")] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend files where all that is found can be mended safely.")
    ] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Show what --fix would change, and change nothing.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what was not analysed, and why.")] = False,
) -> None:
    """Find accumulation and zeroing bugs in source text, without running anything: .py files and notebooks."""
    from gradledger.findings import FORMATS, exit_status, in_source_order, render, selection
    from gradledger.lint import lint_paths, lint_text
    from gradledger.lint.files.config import read_config
    from gradledger.lint.files.discover import files_below
    from gradledger.lint.text import statistics as statistics_of
    from gradledger.lint.text import to_text
    from gradledger.rules import all_rules, descriptions

    if format_name not in FORMATS:
        raise UserError(f"no format {format_name!r}: choose one of {', '.join(FORMATS)}")
    config = read_config(Path.cwd())
    select = select or list(config.select) or None
    ignore = ignore or list(config.ignore) or None
    selection([(rule.slug, rule.code) for rule in all_rules()], select, ignore)  # a wrong name ends here
    files = [] if paths == [Path("-")] else files_below(paths or [Path()], config.exclude)
    if fix or diff:
        _mend(files, select, ignore, in_place=fix and not diff)
    if diff:
        return
    if paths == [Path("-")]:
        report = lint_text(sys.stdin.buffer.read(), stdin_filename, select, ignore)
    else:
        report = lint_paths(files, select, ignore)
    findings = in_source_order(report.findings)
    if statistics:
        written = statistics_of(findings)
    elif format_name == "text":
        written = to_text(findings, report.sources)
    else:
        written = render(findings, format_name, descriptions=descriptions())
    if output is None:
        write(written)
    else:
        output.write_text(written, encoding="utf-8")
    for message in [*report.unreadable, *(report.not_analysed if verbose else [])]:
        tell(f"gradledger: {message}" if message in report.unreadable else f"info: {message}")
    status = _UNREADABLE_STATUS if report.unreadable else exit_status(findings)
    if status:
        raise typer.Exit(status)


def _mend(files: list[Path], select: list[str] | None, ignore: list[str] | None, *, in_place: bool) -> None:
    from gradledger.lint.fix.mending import fixed
    from gradledger.lint.run import MOST_BYTES

    for path in files:
        try:
            content = read_file(path, most_bytes=MOST_BYTES)
        except (OSError, UserError):
            continue  # linting it says so
        mended = fixed(content, str(path), select, ignore)
        if mended is None:
            continue
        if in_place:
            path.write_bytes(mended.text.encode(mended.encoding))
            for finding in mended.findings:
                tell(f"{finding.location}: mended {finding.code} {finding.rule}")
        else:
            write(mended.diff)
