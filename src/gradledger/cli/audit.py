"""``gradledger audit``."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from gradledger.cli._console import tell, write
from gradledger.findings import FormatName

SCRIPT_FAILED_STATUS = 3


def audit(
    script: Annotated[str, typer.Argument(help="The training script, run as __main__.", show_default=False)],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[ARGS]...", help="The script's own.")] = None,
    format: Annotated[FormatName, typer.Option(help="How findings are written.")] = "text",
    output: Annotated[Path | None, typer.Option(help="Write findings to this file instead.")] = None,
    select: Annotated[list[str] | None, typer.Option(help="Only these rules: slugs, codes, families (GL1).")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Not these rules.")] = None,
    stop_after: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after N updates.")] = None,
) -> None:
    """Run a training script unchanged and name every accumulation and zeroing bug.

    This executes the script, with all that it does: audit only what you would run. lint executes nothing.

    Exit status: 0 nothing at warning or above, 1 findings, 2 wrong usage or a script that cannot be read, 3 the
    script itself failed or was interrupted (findings so far are reported).
    """
    from contextlib import nullcontext

    from gradledger.auditor.script import load_script, output_to_stderr, run_script
    from gradledger.findings import exit_status, render
    from gradledger.rules import check_selection, descriptions

    code = load_script(script)
    check_selection(select, ignore)
    _check_writable(output)

    from gradledger.auditor import Auditor  # loads torch: mistakes above are told at once
    from gradledger.auditor.ranks import gather

    auditor = Auditor(select=select, ignore=ignore, stop_after=stop_after)
    with nullcontext() if format == "text" else output_to_stderr():
        run = run_script(script, code, arguments or [], auditor)
        findings, reports = gather(auditor)
    status = SCRIPT_FAILED_STATUS if run.outcome in ("failed", "interrupted") else exit_status(findings)
    if reports:
        is_terminal = output is None and sys.stdout.isatty()
        report = render(findings, format, descriptions=descriptions(), color=is_terminal)
        note = _note(script, auditor.num_updates, auditor.num_backwards)
        notes = [line for line in (run.detail, note) if line]
        _write(report, notes, format, output)
    sys.stdout.flush()
    raise typer.Exit(status if reports or status == SCRIPT_FAILED_STATUS else 0)


def _note(script: str, num_updates: int, num_backwards: int) -> str:
    name = os.path.basename(script)
    if not num_backwards:
        return f"{name} made no backward pass while it was audited: there was no training to judge."
    updates = "1 update" if num_updates == 1 else f"{num_updates} updates"
    calls = "1 backward call" if num_backwards == 1 else f"{num_backwards} backward calls"
    return f"Audited {name}: {calls}, {updates}."


def _check_writable(output: Path | None) -> None:
    from gradledger.errors import UserError

    if output is not None:
        try:
            output.touch()
        except OSError as error:
            raise UserError(f"cannot write {output}: {error.strerror}") from None


def _write(report: str, notes: list[str], format_name: FormatName, output: Path | None) -> None:
    if output is not None:
        output.write_text(report, encoding="utf-8")
    to_stderr = output is not None or format_name != "text"
    for note in notes:
        tell(note) if to_stderr else write(f"{note}\n")
    if output is None:
        write(report, styled=True)


audit.context_settings = {"allow_interspersed_args": False}  # type: ignore[attr-defined]
