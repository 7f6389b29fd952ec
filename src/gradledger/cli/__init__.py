"""The command line: one module a command, found by its file name and imported only when it is called.

A command module holds one function of its own name with typer's annotations; it returns nothing and ends with
``raise typer.Exit(status)`` where its status is not 0.
"""

import atexit
import io
import os
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from gradledger.errors import UserError
from gradledger.printing import printable, shortened

ClickException: Any = typer.BadParameter.__mro__[2]  # of typer's own copy of click, or of click itself
USAGE_STATUS = 2
_IS_RANK = os.environ.get("WORLD_SIZE", "1") not in ("", "1")
"""Whether torchrun started this process beside others."""
TRACEBACK_VARIABLE = "GRADLEDGER_TRACEBACK"
"""In the environment: an error's traceback is shown before its message."""


class _LazyCommands(TyperGroup):
    """Imports ``gradledger.cli.NAME`` when the command NAME is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        function = getattr(import_module(f"{__name__}.{cmd_name}"), cmd_name)
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        settings = getattr(function, "context_settings", None)
        app.command(name=cmd_name, context_settings=settings)(function)
        command = get_command(app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=_LazyCommands,
    name="gradledger",
    help="Gradient accumulation and zeroing in PyTorch, done right.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Gradient accumulation and zeroing in PyTorch, done right."""


def main() -> None:
    """Run the command line; what the user or the system does wrong ends in one line and status 2."""
    _open_closed_streams()
    try:
        status = app(prog_name="gradledger", standalone_mode=False)
        sys.stdout.flush()
    except ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        _end(shown.getvalue().rstrip("\n"))
    except typer.Abort:
        _end("Aborted")
    except (UserError, OSError, MemoryError) as error:
        _end(f"gradledger: {_described(error)}")
    else:
        _leave(status if isinstance(status, int) else 0)


def _open_closed_streams() -> None:
    """A process may be started without standard streams; the files that it opens must not get their places."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115


def _end(message: str) -> NoReturn:
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exc()
    sys.stderr.write(f"{printable(shortened(message))}\n")
    _give_up_output()
    _leave(USAGE_STATUS)


def _leave(status: int) -> NoReturn:
    """End the process: one of several ranks without Python's own ending, in which gloo's threads abort now and then.

    That is "terminate called without an active exception", status -6, of a rank that has done all of its work.
    """
    if _IS_RANK and "torch" in sys.modules:
        for thread in threading.enumerate():  # as Python would: an audited script may have left one at work
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    sys.exit(status)


def _described(error: UserError | OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory for this input"
    if not isinstance(error, OSError):
        return str(error)
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else f"reading or writing failed: {reason}"


def _give_up_output() -> None:
    """What standard output did not take must not be tried again when Python ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
