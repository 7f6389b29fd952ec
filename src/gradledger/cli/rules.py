"""``gradledger rules``."""

from typing import Annotated

import typer

from gradledger.cli._console import write


def rules(
    slug: Annotated[str | None, typer.Argument(help="A rule's slug or code.", show_default=False)] = None,
) -> None:
    """List the rules, or show one with its examples."""
    from gradledger.rules import all_rules, rule_named

    if slug is None:
        width = max(len(rule.slug) for rule in all_rules())
        for rule in all_rules():
            write(f"{rule.code}  {rule.slug:{width}}  {rule.severity:7}  {rule.title}\n")
        return
    rule = rule_named(slug)
    write(f"{rule.code} {rule.slug} ({rule.severity})\n\n{rule.documentation}\n\nFix: {rule.fix}\n\n")
    write(f"Wrong:\n\n{_indented(rule.bad)}\nRight:\n\n{_indented(rule.good)}")


def _indented(code: str) -> str:
    return "".join(f"    {line}" if line.strip() else line for line in code.splitlines(keepends=True))
