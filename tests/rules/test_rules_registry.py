"""What holds for every rule: code, severity, documentation, examples; and the interface they share."""

import re

import pytest

from gradledger.errors import UserError
from gradledger.findings import SEVERITIES
from gradledger.ledger import Backward, Ledger, Location, Step, from_text
from gradledger.rules import Books, all_rules, descriptions, judge, rule_named

FIXED_SLUGS = {
    "stale-gradient", "discarded-gradient", "dropped-tail", "leaked-tail", "mixed-optimizer-gradients",
    "unowned-gradient", "missing-gradient", "redundant-zero", "unnormalized-loss", "uneven-window-scale",
    "mean-of-means", "loss-log-scale", "clip-inside-window", "clip-scaled-gradient", "clip-after-step",
    "scaler-update-inside-window", "step-without-scaler", "low-precision-accumulation", "non-finite-gradient",
    "scheduler-per-micro-batch", "scheduler-horizon", "scheduler-before-step", "needless-all-reduce",
    "unsynced-step", "batch-norm-in-window", "contrastive-in-window", "retained-graph", "host-sync-per-micro-batch",
    "needless-accumulation", "val-train-leakage", "overfitting", "unstable-loss", "hidden-recall",
}  # fmt: skip


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.slug)
def test_every_rule_is_complete(rule):
    assert re.fullmatch(r"GL[1-8]\d\d", rule.code)
    assert rule.severity in SEVERITIES
    assert rule.title.endswith(".")
    assert len(rule.documentation.split()) > 30
    assert rule.fix.endswith(".")
    assert rule.bad.strip()
    assert rule.good.strip()
    assert "expect" not in rule.good


def test_codes_are_distinct_and_the_fixed_slugs_exist():
    codes = [rule.code for rule in all_rules()]
    assert len(set(codes)) == len(codes)
    assert {rule.slug for rule in all_rules()} >= FIXED_SLUGS
    assert set(descriptions()) == {rule.slug for rule in all_rules()}


def test_a_rule_is_found_by_slug_and_code():
    assert rule_named("stale-gradient") == rule_named("GL101") == rule_named("gl101")
    with pytest.raises(UserError, match="no rule 'GL999'"):
        rule_named("GL999")


def test_every_rule_is_silent_where_nothing_is_known():
    """Ledgers without scales, weights, lines: nothing but order can be judged."""
    for text in ("", "Z", "B B S Z B B S Z", "Z B S L Z B S L", "Z:a B:a S:a Z:b B:b S:b"):
        assert judge(from_text(text)) == []


def test_causes_are_merged_and_selected():
    ledger = Ledger(from_text("B S B S B S"))
    assert [(finding.rule, finding.count) for finding in judge(ledger)] == [("stale-gradient", 2)]
    assert judge(ledger, ignore=["GL101"]) == []
    assert judge(ledger, select=["GL2"]) == []


def test_lines_of_unlike_causes_stay_apart():
    entries = [
        entry
        for line in (3, 9)
        for entry in (
            Backward(micro_batch=1, location=Location("a.py", line)),
            Step(update=0, location=Location("a.py", line + 1)),
        )
    ]
    assert [finding.location.line for finding in judge([*entries, *entries])] == [4, 10]


def test_windows_of_ranks_are_not_mixed():
    books = Books([Backward(rank=0), Backward(rank=1), Step(rank=0), Step(rank=1)])
    assert [(len(series.windows), len(series.closed)) for series in books.series] == [(1, 1), (1, 1)]
