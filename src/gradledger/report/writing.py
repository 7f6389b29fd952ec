"""Write a report where somebody may be looking at it: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from gradledger.report.html import to_html
from gradledger.report.page import page_of

REPORT_FILE = "report.html"


def write_report(run_dirs: Iterable[str | PathLike[str]], output: str | PathLike[str]) -> Path:
    """Write the HTML report of run directories, replacing an older one in one move.

    A run that still goes on gives a page that renews itself: call this between updates to keep it current.

    Args:
        run_dirs: Run directories; one directory of them, as ``gradledger compare`` writes; or one file of findings.
        output: The file to write.

    Raises:
        UserError: A path holds nothing that a report can be made from.
    """
    return write_atomically(to_html(page_of([Path(path) for path in run_dirs])), output)


def write_atomically(text: str, output: str | PathLike[str]) -> Path:
    """Write a file beside the one it replaces, then put it in its place: readers see the old or the new one, whole."""
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, output)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return output
