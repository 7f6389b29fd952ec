"""The command line: one module a command, found by its file name and imported only when it is called.

A command module holds one function of its own name with typer's annotations; it returns nothing and ends with
``raise typer.Exit(status)`` where its status is not 0.
"""

import sys
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from gradledger.errors import UserError

USAGE_STATUS = 2


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
    """Run the command line; a user's mistake ends in one line and status 2."""
    try:
        app(prog_name="gradledger")
    except UserError as error:
        typer.echo(f"gradledger: {error}", err=True)
        sys.exit(USAGE_STATUS)
