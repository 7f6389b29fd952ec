"""Describes the public surface, one line a name or option."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

FROZEN = Path(__file__).with_name("surface.txt")


def describe() -> list[str]:
    """Public names with their parameters, the methods of public classes, and every command's options."""
    return [*_names(), *_integrations(), *_commands()]


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


def _integrations() -> list[str]:
    """From their source text, since their modules import the trainers."""
    import gradledger

    lines = []
    for path in sorted((Path(gradledger.__file__).parent / "integrations").glob("[a-z]*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if getattr(node, "name", "_").startswith("_"):
                continue
            if isinstance(node, ast.FunctionDef):
                lines.append(f"gradledger.integrations.{path.stem}.{node.name}({_written(node)})")
            elif isinstance(node, ast.ClassDef):
                made = [inner for inner in node.body if isinstance(inner, ast.FunctionDef) and inner.name == "__init__"]
                parameters = _written(made[0]) if made else ""
                lines.append(f"gradledger.integrations.{path.stem}.{node.name}({parameters})")
    return lines


def _written(function: ast.FunctionDef) -> str:
    names = [argument.arg for argument in function.args.args if argument.arg != "self"]
    return ", ".join([*names, *(f"{argument.arg}=" for argument in function.args.kwonlyargs)])


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
