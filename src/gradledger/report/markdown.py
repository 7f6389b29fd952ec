"""The report as Markdown, for notes and pull requests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from gradledger.printing import printable
from gradledger.report.facts import Confusion
from gradledger.report.findings import Shown
from gradledger.report.page import Page, RunPart
from gradledger.report.wording import duration, number, percent

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~&])")


def to_markdown(page: Page) -> str:
    """Write a report as Markdown. The user's own text is escaped: it can neither format nor link nor embed."""
    return "\n".join(_lines(page)).rstrip() + "\n"


def _lines(page: Page) -> Iterator[str]:
    yield f"# {_text(page.title)}"
    yield ""
    yield f"**{_text(page.verdict.headline)}**"
    for sentence in page.verdict.sentences:
        yield ""
        yield _text(sentence)
    if page.comparison:
        yield from _section("Comparison", table(page.comparison.table.columns, page.comparison.table.rows))
    if page.findings:
        yield from _section("Findings", (line for finding in page.findings for line in _finding(finding)))
    if page.details:
        yield from _section("Details", table(("name", "value"), page.details))
    for name, own in page.tables:
        yield from _section(_text(name), table(own.columns, own.rows))
    for run in page.runs:
        yield from _run(run)


def _run(run: RunPart) -> Iterator[str]:
    yield from _section(_text(run.name), table(("", "", ""), [(f.label, f.value, f.note) for f in run.facts]))
    for sentence in run.arithmetic:
        yield ""
        yield _text(sentence)
    if run.confusion:
        yield from _confusion(run.confusion)
    if run.time_split:
        rows = [(share.name, duration(share.seconds), percent(share.fraction)) for share in run.time_split]
        yield ""
        yield from table(("time", "", ""), rows)


def _confusion(confusion: Confusion) -> Iterator[str]:
    yield ""
    yield from table(
        ("true \\ predicted", *confusion.names),
        [(name, *map(str, row)) for name, row in zip(confusion.names, confusion.rows, strict=True)],
    )
    yield ""
    scores = zip(confusion.names, confusion.scores, strict=True)
    rows = [(name, *(number(v) for v in values[:3]), str(values[3])) for name, values in scores]
    yield from table(("class", "precision", "recall", "F1", "support"), rows)


def _finding(finding: Shown) -> Iterator[str]:
    run = f" ({_text(finding.run)})" if finding.run else ""
    place = f" {_text(finding.place)}:" if finding.place else ""
    yield f"- **{finding.severity}** {_text(finding.code)} {_text(finding.rule)}{run}:{place} {_text(finding.message)}"
    if finding.fix:
        yield f"  Fix: {_text(finding.fix)}"


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""
    yield from lines


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    r"""A Markdown table, its cells escaped.

    Example:
        >>> list(table(("a", "b"), [("1", "x|y")]))
        ['| a | b |', '|---|---|', '| 1 | x\\|y |']
    """
    yield "| " + " | ".join(map(_text, columns)) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(map(_text, row)) + " |"


def _text(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", printable(" ".join(text.split())))
