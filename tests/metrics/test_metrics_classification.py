"""Against scikit-learn, over random and degenerate inputs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from gradledger.errors import UserError
from gradledger.metrics import classification_metrics

TOLERANCE = 1e-6


def _agree(labels, predictions, num_classes, scores=None):
    measured = classification_metrics(
        torch.tensor(labels),
        torch.tensor(predictions),
        num_classes=num_classes,
        scores=None if scores is None else torch.tensor(scores),
    )
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        labels, predictions, labels=range(num_classes), zero_division=0
    )
    assert measured.precision == pytest.approx(precision, abs=TOLERANCE)
    assert measured.recall == pytest.approx(recall, abs=TOLERANCE)
    assert measured.f1 == pytest.approx(f1, abs=TOLERANCE)
    assert measured.support == tuple(support)
    expected = sklearn_metrics.confusion_matrix(labels, predictions, labels=range(num_classes))
    assert measured.confusion == tuple(map(tuple, expected))
    assert measured.accuracy == sklearn_metrics.accuracy_score(labels, predictions)
    macro = sklearn_metrics.precision_recall_fscore_support(labels, predictions, average="macro", zero_division=0)
    assert (measured.macro_precision, measured.macro_recall, measured.macro_f1) == pytest.approx(
        macro[:3], abs=TOLERANCE
    )
    if scores is not None and len(set(labels)) == 2:
        assert measured.roc_auc == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=TOLERANCE)
        assert measured.pr_auc == pytest.approx(sklearn_metrics.average_precision_score(labels, scores), abs=TOLERANCE)
    else:
        assert measured.roc_auc is None
        assert measured.pr_auc is None
    return measured


@st.composite
def _classified(draw):
    num_classes = draw(st.integers(2, 6))
    classes = st.integers(0, num_classes - 1)
    pairs = draw(st.lists(st.tuples(classes, classes), min_size=1, max_size=60))
    return num_classes, [label for label, _ in pairs], [prediction for _, prediction in pairs]


@settings(deadline=None, max_examples=60)
@given(_classified())
def test_agrees_with_scikit_learn(classified):
    num_classes, labels, predictions = classified
    _agree(labels, predictions, num_classes)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), min_size=1, max_size=60))
def test_areas_agree_with_scikit_learn_with_many_ties(samples):
    labels = [label for label, _ in samples]
    scores = [float(score) for _, score in samples]
    _agree(labels, [int(score > 0) for score in scores], 2, scores)


@pytest.mark.parametrize("num_samples", [2, 37, 5000, 100_000])
@pytest.mark.parametrize("positive_fraction", [0.02, 0.5])
def test_areas_agree_at_any_size(num_samples, positive_fraction):
    generator = np.random.default_rng(num_samples)
    labels = (generator.random(num_samples) < positive_fraction).astype(int)
    labels[:2] = 0, 1
    scores = generator.normal(size=num_samples) + labels
    _agree(labels.tolist(), (scores > 0.5).astype(int).tolist(), 2, scores.tolist())


def test_saturated_scores_keep_their_order():
    labels, scores = [0, 1, 0, 1, 1], [100.0, 101.0, 500.0, 1000.0, 40.0]  # a float32 sigmoid gives 1.0 for all
    measured = _agree(labels, [1] * 5, 2, scores)
    assert measured.roc_auc == pytest.approx(0.5)


def test_accuracy_misleads_where_recall_tells():
    labels, predictions = [0] * 98 + [1] * 2, [0] * 100
    measured = _agree(labels, predictions, 2)
    assert measured.accuracy == 0.98
    assert measured.recall == (1.0, 0.0)


def test_an_absent_class_has_no_area_and_zero_recall():
    measured = _agree([0, 0, 0], [0, 1, 0], 2, [0.1, 0.9, 0.2])
    assert measured.recall[1] == 0.0
    assert measured.support == (3, 0)


def test_scores_that_are_not_finite_have_no_area():
    measured = classification_metrics(
        torch.tensor([0, 1]), torch.tensor([0, 1]), num_classes=2, scores=torch.tensor([math.nan, 1.0])
    )
    assert measured.roc_auc is None


@pytest.mark.parametrize(
    ("labels", "predictions", "num_classes", "message"),
    [
        ([], [], 2, "there are 0 samples to measure: give a data set that holds some"),
        ([0, 1], [0], 2, r"labels have the shape \(2,\) and predictions \(1,\)"),
        ([0, 2], [0, 1], 2, "labels reach from 0 to 2, but 2 classes are numbered 0 to 1"),
        ([0, 1], [0, -1], 2, "predictions reach from -1 to 0"),
        ([0, 0], [0, 0], 1, "num_classes is 1: classification needs at least 2 classes"),
    ],
)
def test_mistakes_are_told(labels, predictions, num_classes, message):
    with pytest.raises(UserError, match=message):
        classification_metrics(
            torch.tensor(labels, dtype=torch.int64),
            torch.tensor(predictions, dtype=torch.int64),
            num_classes=num_classes,
        )
