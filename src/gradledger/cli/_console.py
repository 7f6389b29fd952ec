"""The console that commands print to."""

import io
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def make_console(*, width_without_terminal: int | None = None) -> "Console":
    """A console on standard output that prints ``?`` for what the output's encoding cannot hold, and never fails.

    Args:
        width_without_terminal: Columns where standard output is no terminal; None: rich's own 80.
    """
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")
    return Console(width=None if sys.stdout.isatty() else width_without_terminal)
