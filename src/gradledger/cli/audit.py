"""``gradledger audit``."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradledger.cli._console import tell, write
from gradledger.errors import UserError
from gradledger.findings import FormatName

if TYPE_CHECKING:
    from gradledger.auditor import Auditor
    from gradledger.auditor.script import ScriptRun
    from gradledger.auditor.surroundings import Surroundings
    from gradledger.findings import Finding

SCRIPT_FAILED_STATUS = 3
NOT_WRITTEN_STATUS = 2


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

    Exit status: 0 nothing at warning or above, 1 findings, 2 wrong usage, a script that cannot be read or findings that
    cannot be written, 3 the script itself failed or was interrupted (findings so far are reported).
    """
    from gradledger.auditor.script import load_script, run_script, sudden_end
    from gradledger.auditor.surroundings import Surroundings, sudden_ends
    from gradledger.rules import check_selection

    code = load_script(script)
    check_selection(select, ignore)
    _check_writable(output)

    from gradledger.auditor import Auditor  # loads torch: mistakes above are told at once

    auditor, process = Auditor(select=select, ignore=ignore, stop_after=stop_after), os.getpid()
    surroundings = Surroundings(output_to_stderr=format != "text")
    telling = _Telling(script, auditor, format, output and output.absolute(), surroundings)
    with sudden_ends(lambda means, number: telling.tell(sudden_end(auditor, means, number))):
        run = run_script(script, code, arguments or [], auditor)
        if os.getpid() != process:  # forked by the script, and come to its end: the parent tells
            raise typer.Exit(run.outcome in ("failed", "interrupted"))
        status = telling.tell(run)
    raise typer.Exit(status)


@dataclass(slots=True)
class _Telling:
    """How one audit is told.

    Args:
        script: The script, as it was named.
        auditor: What has looked on.
        format: How findings are written.
        output: The file for them.
        surroundings: What the script may have changed.
        is_told: The report is written, or being written: a signal meanwhile does not begin another one.
    """

    script: str
    auditor: Auditor
    format: FormatName
    output: Path | None
    surroundings: Surroundings
    is_told: bool = False

    def tell(self, run: ScriptRun) -> int:
        """Write the report, of all ranks together, and give the status to end with."""
        from gradledger.auditor.ranks import gather
        from gradledger.findings import exit_status

        findings, tells = gather(self.auditor, is_cut_short=run.outcome == "interrupted")
        self.surroundings.put_back()
        failed = run.outcome in ("failed", "interrupted")
        status = SCRIPT_FAILED_STATUS if failed else exit_status(findings) if tells else 0
        if tells and not self.is_told:
            self.is_told = True
            if not self._write(run, findings):
                status = NOT_WRITTEN_STATUS
        return status

    def _write(self, run: ScriptRun, findings: list[Finding]) -> bool:
        """Write notes and findings; whether they are where they were to be."""
        from gradledger.auditor.surroundings import send_output_to_stderr
        from gradledger.findings import render
        from gradledger.rules import descriptions

        is_terminal = self.output is None and sys.stdout.isatty()
        report = render(findings, self.format, descriptions=descriptions(), color=is_terminal)
        problem = self._write_file(report)
        in_file = self.output is not None and problem is None
        for note in (run.detail, self._note(), problem):
            if note and (in_file or self.format != "text" or note is problem):
                tell(note)
            elif note:
                write(f"{note}\n")
        if not in_file:
            write(report, styled=True)
        sys.stdout.flush()
        if self.format != "text":  # what the script prints when the interpreter ends must not follow
            send_output_to_stderr()
        return problem is None

    def _write_file(self, report: str) -> str | None:
        """Write to the file, where there is to be one; what went wrong."""
        try:
            if self.output is not None:
                self.output.write_text(report, encoding="utf-8")
        except OSError as error:
            return f"gradledger: cannot write {self.output}: {error.strerror}; the findings go to standard output"
        return None

    def _note(self) -> str:
        name = os.path.basename(self.script)
        num_updates, num_backwards = self.auditor.num_updates, self.auditor.num_backwards
        if not num_backwards:
            return f"{name} made no backward pass while it was audited: there was no training to judge."
        updates = "1 update" if num_updates == 1 else f"{num_updates} updates"
        calls = "1 backward call" if num_backwards == 1 else f"{num_backwards} backward calls"
        return f"Audited {name}: {calls}, {updates}."


def _check_writable(output: Path | None) -> None:
    if output is not None:
        try:
            output.touch()
        except OSError as error:
            raise UserError(f"cannot write {output}: {error.strerror}") from None


audit.context_settings = {"allow_interspersed_args": False}  # type: ignore[attr-defined]
