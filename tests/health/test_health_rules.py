"""The health rules over ledgers written by hand: what makes each speak, and what keeps it silent."""

import math
import runpy

import pytest

from gradledger.ledger import Backward, Metric, Step, Zero
from gradledger.rules import judge, rule_named

FAMILY = ("val-train-leakage", "overfitting", "unstable-loss", "hidden-recall")


def training(losses, *, first_update=0, account="main"):
    entries = []
    for number, loss in enumerate(losses, start=first_update):
        place = {"micro_batch": number + 1, "update": number, "account": account}
        entries += [Backward(**place, loss=loss, weight=8.0, scale=1.0, reduction="mean"), Step(**place)]
        entries.append(Zero(**{**place, "update": number + 1}))
    return entries


def validation(name, values, split="validation"):
    return [Metric(name=name, value=value, split=split, update=10 * i) for i, value in enumerate(values, start=1)]


def rules_of(entries):
    return [finding.rule for finding in judge(entries, select=FAMILY)]


FALLING = [2.0 * 0.95**i + 0.01 * (i % 3) for i in range(80)]
FLAT = [2.0 + 0.01 * (i * 7 % 5) for i in range(80)]


def test_a_falling_loss_is_well_and_a_flat_one_is_not():
    assert rules_of(training(FALLING)) == []
    (finding,) = judge(training(FLAT), select=FAMILY)
    assert (finding.rule, finding.severity) == ("unstable-loss", "warning")
    assert "did not fall in 80 updates: 2 at first" in finding.message


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, 1e200])
def test_a_loss_that_is_no_number_is_named_with_its_update(loss):
    (finding,) = judge(training([*FALLING[:20], loss, *FALLING[21:]]), select=FAMILY)
    assert finding.message.startswith("From update 21 on the loss is not a number")
    assert finding.first_update == 20


@pytest.mark.parametrize(
    "entries",
    [
        training(FLAT, first_update=500),
        training([loss - 5 for loss in FLAT]),
        [*training(FLAT, account="generator"), *training(FLAT, account="critic")],
        training([None] * 80),
    ],
    ids=["it goes on from an earlier run", "negative losses", "two accounts", "losses unknown"],
)
def test_where_a_loss_need_not_fall_nothing_is_said(entries):
    assert rules_of(entries) == []


RISING_VALIDATION = [1.0, 0.8, 0.7, 0.65, 0.66, 0.7, 0.74, 0.8, 0.85, 0.9, 0.97]


def test_overfitting_names_both_losses():
    (finding,) = judge(training(FALLING) + validation("loss", RISING_VALIDATION), select=FAMILY)
    assert finding.rule == "overfitting"
    assert "rose from 0.66 after update 40 to 0.9 (+36%) in 7 evaluations" in finding.message
    assert "training loss fell" in finding.message


def test_a_validation_loss_that_rises_from_zero_is_told_without_percent():
    (finding,) = judge(training(FALLING) + validation("loss", [0.0] * 5 + [0.1 * i for i in range(8)]), select=FAMILY)
    assert "rose from 0 after update" in finding.message
    assert "%" not in finding.message


def test_a_rise_of_both_losses_is_no_overfitting():
    rising = [0.2 + 0.02 * i for i in range(110)]
    assert "overfitting" not in rules_of(training(rising) + validation("loss", RISING_VALIDATION))


@pytest.mark.parametrize(
    "values",
    [RISING_VALIDATION[:7], [0.9**i for i in range(20)], [1, 0.8, 0.6, 0.5, 0.5, 0.51, 0.5, 0.52, 0.51, 0.52, 0.52]],
    ids=["too few", "falling", "rising by less than a tenth"],
)
def test_a_validation_loss_that_is_well(values):
    assert rules_of(training(FALLING) + validation("loss", values)) == []


def scores(accuracy, recall, support):
    values = {
        "accuracy": accuracy,
        "recall/common": 0.99,
        "support/common": 900.0,
        "recall/rare": recall,
        "support/rare": support,
    }
    return [metric for name, value in values.items() for metric in validation(name, [value])]


def test_hidden_recall_names_the_class_its_support_and_the_cost():
    (finding,) = judge(scores(0.98, 0.12, 50.0), select=FAMILY)
    assert finding.rule == "hidden-recall"
    assert "accuracy is 98.0%" in finding.message
    assert "class 'rare' has a recall of 12.0%: 44 of its 50 samples are missed" in finding.message
    assert "commonest class would give 94.7%" in finding.message


@pytest.mark.parametrize(
    ("accuracy", "recall", "support"),
    [(0.6, 0.12, 50.0), (0.98, 0.8, 50.0), (0.98, 0.0, 4.0), (0.98, 0.4, 20.0), (0.98, math.nan, 50.0)],
    ids=["accuracy is low too", "recall is fine", "four samples", "could be a half", "recall unknown"],
)
def test_where_recall_is_not_surely_hidden_nothing_is_said(accuracy, recall, support):
    assert rules_of(scores(accuracy, recall, support)) == []


def test_only_the_last_validation_counts_for_recall():
    early, late = scores(0.98, 0.0, 50.0), scores(0.98, 0.9, 50.0)
    assert rules_of(early + late) == []


def accumulated(factor, *, num_reports=5, steps=4):
    entries = []
    for update in range(num_reports * 2):
        entries += [
            Backward(micro_batch=update * steps + i, update=update, loss=2.0 - 0.1 * update + 0.01 * i, weight=8.0)
            for i in range(steps)
        ]
        entries += [Step(update=update), Zero(update=update + 1)]
        if update % 2:
            mean = sum(2.0 - 0.1 * u + 0.01 * i for u in (update - 1, update) for i in range(steps)) / (2 * steps)
            entries.append(Metric(name="loss", value=mean * factor, split="train", update=update + 1))
    return entries


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_a_reported_loss_that_is_off_by_the_number_of_steps_is_named(factor):
    (finding,) = judge(accumulated(factor), select=["loss-log-scale"])
    assert f"is {factor:g} × that of its micro-batches, in each of 5 reports" in finding.message


@pytest.mark.parametrize(
    "entries",
    [accumulated(1.0), accumulated(0.5), accumulated(0.25, num_reports=2), accumulated(1.0, steps=1)],
    ids=["right", "off by something else", "two reports", "no accumulation"],
)
def test_a_reported_loss_that_is_right_or_unclear_is_not_named(entries):
    assert judge(entries, select=["loss-log-scale"]) == []


def leakage(**numbers):
    return [m for name, value in numbers.items() for m in validation(f"leakage/{name}", [float(value)])]


@pytest.mark.parametrize(
    ("numbers", "speaks"),
    [
        ({"num_samples": 1000, "num_shared_indices": 1, "num_exact": 0, "num_near": 0}, True),
        ({"num_samples": 1000, "num_shared_indices": 0, "num_exact": 3, "num_near": 2}, True),
        ({"num_samples": 1000, "num_shared_indices": 0, "num_exact": 4, "num_near": 0}, False),
        ({"num_samples": 0, "num_shared_indices": 0, "num_exact": 0, "num_near": 0}, False),
    ],
)
def test_leakage_counts(numbers, speaks):
    assert rules_of(leakage(**numbers)) == (["val-train-leakage"] if speaks else [])


@pytest.mark.parametrize("slug", FAMILY)
def test_the_documented_examples_hold(slug, tmp_path):
    rule = rule_named(slug)
    for text, expected in ((rule.bad, [slug]), (rule.good, [])):
        script = tmp_path / "script.py"
        script.write_text(text)
        assert rules_of(runpy.run_path(str(script))["ledger"]) == expected
