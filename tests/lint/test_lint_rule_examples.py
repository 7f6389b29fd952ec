"""Every rule's own examples, read only: BAD gives exactly its slug on the marked line, GOOD gives nothing."""

import re

import pytest

from gradledger.lint import lint_text
from gradledger.rules import Rule, all_rules

MARKER = re.compile(r"# expect(?:\[(?P<tool>\w+)\])?: (?P<slugs>.*)")


def marked_for_lint(source: str) -> set[tuple[int, str]]:
    marks = [(number, MARKER.search(line)) for number, line in enumerate(source.splitlines(), start=1)]
    return {
        (number, slug.strip())
        for number, mark in marks
        if mark and mark["tool"] in (None, "lint")
        for slug in mark["slugs"].split(",")
    }


def found_by_lint(source: str, rule: Rule) -> set[tuple[int, str]]:
    findings = lint_text(source.encode(), "example.py").findings
    return {(f.location.line, f.rule) for f in findings if f.location and (f.severity != "info" or f.rule == rule.slug)}


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.slug)
def test_bad_is_found_on_its_line(rule: Rule):
    assert found_by_lint(rule.bad, rule) == marked_for_lint(rule.bad)


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.slug)
def test_good_is_left_alone(rule: Rule):
    assert found_by_lint(rule.good, rule) == set()
