"""Findings: merging, order, exit status, selection, comments that ignore."""

import pytest

from gradledger.errors import UserError
from gradledger.findings import (
    Finding,
    exit_status,
    ignored_slugs,
    in_source_order,
    merge,
    selection,
    without_ignored,
    worst_first,
)
from gradledger.ledger import Location

RULES = [("stale-gradient", "GL101"), ("discarded-gradient", "GL102"), ("mean-of-means", "GL203")]


def finding(rule="stale-gradient", code="GL101", severity="error", file="a.py", line=1, **more):
    return Finding(rule=rule, code=code, severity=severity, message="m", location=Location(file, line), **more)


def test_one_cause_is_one_finding_with_its_count_and_first_update():
    merged = merge([finding(first_update=7), finding(first_update=3, count=2), finding(line=2)])
    assert [(f.count, f.first_update, f.location.line) for f in merged] == [(3, 3, 1), (1, 0, 2)]


def test_source_order_is_file_line_code_and_text_order_is_worst_first():
    nowhere = Finding(rule="x", code="GL103", severity="warning", message="m")
    info = finding(severity="info", line=1)
    later = finding(line=10)
    other = finding(file="b.py", line=1)
    assert in_source_order([nowhere, other, later, info]) == [info, later, other, nowhere]
    assert worst_first([nowhere, info, later]) == [later, nowhere, info]


@pytest.mark.parametrize(("severities", "status"), [([], 0), (["info"], 0), (["info", "warning"], 1), (["error"], 1)])
def test_exit_status(severities, status):
    assert exit_status([finding(severity=severity) for severity in severities]) == status


@pytest.mark.parametrize(
    ("select", "ignore", "left"),
    [
        (None, None, {"stale-gradient", "discarded-gradient", "mean-of-means"}),
        (["GL1"], None, {"stale-gradient", "discarded-gradient"}),
        (["gl203,stale-gradient"], None, {"mean-of-means", "stale-gradient"}),
        (["GL1"], ["GL102"], {"stale-gradient"}),
        (None, ["GL"], None),
        (None, ["GL1", "mean-of-means"], set()),
    ],
)
def test_selection_takes_slugs_codes_and_families(select, ignore, left):
    if left is None:
        with pytest.raises(UserError, match="no rule 'GL'"):
            selection(RULES, select, ignore)
    else:
        assert selection(RULES, select, ignore).slugs == left


def test_an_unknown_name_is_a_mistake_of_the_users():
    with pytest.raises(UserError, match="no rule 'stale-gradients': `gradledger rules` lists the slugs and codes"):
        selection(RULES, ["stale-gradients"])


@pytest.mark.parametrize(
    ("comment", "names"),
    [
        ("step()", None),
        ("step()  # gradledger: ignore", {"*"}),
        ("step()  #gradledger:ignore[stale-gradient]", {"stale-gradient"}),
        ("step()  # gradledger: ignore[GL101, mean-of-means]", {"GL101", "mean-of-means"}),
        ("step()  # gradledger: ignore[]", set()),
    ],
)
def test_comments(comment, names):
    assert ignored_slugs(comment) == names


def test_an_ignored_line_is_silent_for_the_named_rules_only(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("a()  # gradledger: ignore[GL101]\nb()  # gradledger: ignore\nc()\n")
    names = str(script)
    stale = [finding(file=names, line=line) for line in (1, 2, 3)]
    mean = finding("mean-of-means", "GL203", file=names, line=1)
    assert without_ignored([*stale, mean]) == [stale[2], mean]
