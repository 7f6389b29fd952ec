"""Where commands write: standard output for results, standard error for what is said about them."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from gradledger.errors import UserError
from gradledger.printing import make_console as make_printable_console
from gradledger.printing import printable

if TYPE_CHECKING:
    from rich.console import Console


def make_console(*, width_without_terminal: int | None = None) -> Console:
    """A console on standard output that prints ``?`` for what the output's encoding cannot hold, and never fails.

    Args:
        width_without_terminal: Columns where standard output is no terminal; None: rich's own 80.
    """
    _accept_all_characters()
    return make_printable_console(width=None if sys.stdout.isatty() else width_without_terminal)


def write(text: str, *, styled: bool = False) -> None:
    """Write a result to standard output, control characters escaped and ``?`` for what its encoding cannot hold.

    Args:
        text: What to write.
        styled: It is escaped already, and may have colours.

    Raises:
        UserError: It cannot be written: a full disk, for instance.
    """
    _accept_all_characters()
    try:
        sys.stdout.write(text if styled else printable(text))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"standard output cannot be written: {error.strerror}") from None


def tell(line: str) -> None:
    """Say something on standard error."""
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()


def _accept_all_characters() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")
