"""Write the generated pages: rules from their code, exactness from its benchmark; --check fails on stale ones."""

from __future__ import annotations

import sys
from pathlib import Path

from exactness_page import exactness_page

from gradledger.rules import Rule, all_rules

FOLDER = Path(__file__).parent / "rules"
FAMILIES = {
    "1": "Bookkeeping",
    "2": "Scale",
    "3": "Clipping and precision",
    "4": "Schedule",
    "5": "Distributed",
    "6": "Coupling",
    "7": "Cost",
    "8": "Learning",
}


def pages() -> dict[Path, str]:
    """The text of every page."""
    rules = all_rules()
    return {
        FOLDER.parent / "exactness.md": exactness_page(),
        FOLDER / "README.md": index(rules),
        **{FOLDER / f"{rule.slug}.md": page(rule) for rule in rules},
    }


def index(rules: tuple[Rule, ...]) -> str:
    """The list of all rules by family."""
    parts = [
        "# Rules\n",
        "One page a rule, written by `python docs/generate.py` from the rules themselves.\n",
        "`error`: the weights are wrong. `warning`: waste, or wrong in some runs. `info`: true, and may be meant.\n",
    ]
    for digit, family in FAMILIES.items():
        own = [rule for rule in rules if rule.code[2] == digit]
        if own:
            rows = [f"| {r.code} | [{r.slug}]({r.slug}.md) | {r.severity} | {r.title} |" for r in own]
            parts.append(
                "\n".join([f"## {family}\n", "| code | rule | severity | what |", "|---|---|---|---|", *rows, ""])
            )
    return "\n".join(parts)


def page(rule: Rule) -> str:
    """One rule's page."""
    return (
        f"# {rule.slug} ({rule.code}, {rule.severity})\n\n{rule.documentation}\n\n**Fix.** {rule.fix}\n\n"
        f"## Wrong\n\n```python\n{rule.bad}```\n\n## Right\n\n```python\n{rule.good}```\n"
    )


def main() -> int:
    """Write or check the pages."""
    wanted = pages()
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    left_over = sorted(set(FOLDER.glob("*.md")) - set(wanted))
    if "--check" in sys.argv[1:]:
        for path in [*stale, *left_over]:
            print(f"{path} is stale: run `python docs/generate.py`", file=sys.stderr)  # noqa: T201
        return 1 if stale or left_over else 0
    FOLDER.mkdir(exist_ok=True)
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    for path in left_over:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
