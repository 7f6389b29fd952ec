"""``gradledger rules``."""

from typing import Annotated

import typer


def rules(
    slug: Annotated[str | None, typer.Argument(help="A rule's slug or code.", show_default=False)] = None,
) -> None:
    """List the rules, or show one with its examples."""
    from gradledger.rules import all_rules, rule_named

    if slug is None:
        width = max(len(rule.slug) for rule in all_rules())
        for rule in all_rules():
            typer.echo(f"{rule.code}  {rule.slug:{width}}  {rule.severity:7}  {rule.title}")
        return
    rule = rule_named(slug)
    typer.echo(f"{rule.code} {rule.slug} ({rule.severity})\n\n{rule.documentation}\n\nFix: {rule.fix}\n")
    typer.echo(f"Wrong:\n\n{_indented(rule.bad)}\nRight:\n\n{_indented(rule.good)}", nl=False)


def _indented(code: str) -> str:
    return "".join(f"    {line}" if line.strip() else line for line in code.splitlines(keepends=True))
