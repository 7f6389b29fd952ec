"""Every loop of the corpus, read only: what is marked is found on its line, and nothing else at warning or above."""

from pathlib import Path

import pytest

from gradledger.lint import lint_text
from gradledger.rules import all_rules
from loops.corpus import expected, loops, name_of

INFO = {rule.slug for rule in all_rules() if rule.severity == "info"}


@pytest.mark.parametrize("path", loops(), ids=name_of)
def test_the_marked_findings_and_no_others(path: Path):
    report = lint_text(path.read_bytes(), str(path))
    found: dict[int, set[str]] = {}
    for finding in report.findings:
        assert finding.location is not None
        found.setdefault(finding.location.line, set()).add(finding.rule)
    wanted = expected(path, "lint")
    for line, slugs in found.items():
        found[line] = {slug for slug in slugs if slug not in INFO or slug in wanted.get(line, set())}
    assert {line: slugs for line, slugs in found.items() if slugs} == wanted
    assert report.unreadable == []
    assert report.not_analysed == []
