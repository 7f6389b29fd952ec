"""Describes the public surface, one line a name or option."""

from __future__ import annotations

import inspect
from pathlib import Path

FROZEN = Path(__file__).with_name("surface.txt")


def describe() -> list[str]:
    """Public names with their parameters, the methods of public classes, and every command's options."""
    return [*_names(), *_commands()]


def _names() -> list[str]:
    import gradledger

    lines = []
    for name in sorted(gradledger.__all__):
        value = getattr(gradledger, name)
        lines.append(f"gradledger.{name}{_parameters(value)}")
        if inspect.isclass(value):
            for attribute, member in sorted(vars(value).items()):
                if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                    lines.append(f"gradledger.{name}.{attribute}{_parameters(member)}")
    return lines


def _parameters(value: object) -> str:
    if not inspect.isclass(value) and not inspect.isfunction(value):
        return ""
    try:
        signature = inspect.signature(value)
    except ValueError:
        return ""
    shown = []
    for parameter in signature.parameters.values():
        prefix = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(parameter.kind.name, "")
        keyword = "=" if parameter.kind is parameter.KEYWORD_ONLY else ""
        if parameter.name != "self":
            shown.append(prefix + parameter.name + keyword)
    return f"({', '.join(shown)})"


def _commands() -> list[str]:
    from typer.main import get_command

    from gradledger.cli import app

    group = get_command(app)
    lines = []
    for name in group.list_commands(None):  # type: ignore[attr-defined]
        command = group.get_command(None, name)  # type: ignore[attr-defined]
        for parameter in command.params:
            option = "/".join(parameter.opts) if parameter.param_type_name == "option" else parameter.name.upper()
            lines.append(f"gradledger {name} {option}")
        if not command.params:
            lines.append(f"gradledger {name}")
    return lines


if __name__ == "__main__":
    FROZEN.write_text("\n".join(describe()) + "\n", encoding="utf-8")
