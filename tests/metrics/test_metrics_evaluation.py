"""Evaluation leaves no trace, and its numbers are those of the whole data set."""

import random

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import nn

from gradledger.errors import UserError
from gradledger.metrics import evaluate, regression_metrics

CROSS_ENTROPY = nn.functional.cross_entropy


def _batches(sizes, num_classes=3):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 4, generator=generator), torch.randint(num_classes, (size,), generator=generator))
        for size in sizes
    ]


def test_loss_is_that_of_the_whole_set_not_a_mean_of_means():
    model, batches = nn.Linear(4, 3).double(), [(x.double(), y) for x, y in _batches([7, 1, 4])]
    measured = evaluate(model, batches, CROSS_ENTROPY, task="classification", num_classes=3)
    inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert measured.loss == pytest.approx(CROSS_ENTROPY(model(inputs), labels).item(), rel=1e-12)
    assert measured.metrics.num_samples == 12


def test_own_weights_count():
    class_weights = torch.tensor([1.0, 5.0, 0.5])
    model, batches = nn.Linear(4, 3), _batches([6, 2, 3])
    loss_fn = nn.CrossEntropyLoss(class_weights)
    measured = evaluate(
        model,
        batches,
        loss_fn,
        task="classification",
        num_classes=3,
        weight=lambda batch: class_weights[batch[1]].sum(),
    )
    inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert measured.loss == pytest.approx(loss_fn(model(inputs), labels).item(), rel=1e-6)


class _Noisy(nn.Module):
    """Draws from every random state, whatever the mode."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, inputs):
        noise = torch.rand(()) + random.random() + float(np.random.rand())
        return self.head(self.norm(inputs)) + 0 * noise


def test_random_states_modes_and_buffers_are_as_before():
    model = _Noisy()
    model.norm.eval()  # frozen by the user, among modules that train
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    evaluate(model, _batches([8, 8]), CROSS_ENTROPY, task="classification", num_classes=3)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()
    assert (model.training, model.norm.training, model.head.training) == (True, False, True)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_all_is_as_before_after_an_error_too():
    model = _Noisy()
    state = torch.get_rng_state()
    batches = [(torch.zeros(2, 4), torch.zeros(2).long()), (torch.zeros(2, 9), torch.zeros(2).long())]
    with pytest.raises(RuntimeError, match="should contain 9 elements"):
        evaluate(model, batches, CROSS_ENTROPY, task="classification", num_classes=3)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_dropout_is_off_and_batch_norm_uses_what_it_has_learnt():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.9), nn.Linear(4, 3))
    ((inputs, labels),) = _batches([16])
    measured = evaluate(model, [(inputs, labels)], CROSS_ENTROPY, task="classification", num_classes=3).loss
    as_learnt = model[2](inputs / (1 + model[0].eps) ** 0.5)  # a mean of 0 and a variance of 1, before any training
    assert measured == pytest.approx(CROSS_ENTROPY(as_learnt, labels).item(), rel=1e-6)
    assert model[0].num_batches_tracked == 0


@pytest.mark.parametrize("num_logits", [1, 2])
def test_two_classes_by_one_or_two_logits(num_logits):
    inputs = torch.linspace(-2, 2, 9)
    labels = torch.tensor([0, 1, 0, 0, 1, 0, 1, 1, 1])
    outputs = inputs[:, None] if num_logits == 1 else torch.stack([-inputs / 2, inputs / 2], dim=1)
    measured = evaluate(
        nn.Identity(), [(outputs, labels)], lambda outputs, labels: outputs.mean(), task="classification", num_classes=2
    ).metrics
    assert measured.roc_auc == pytest.approx(sklearn_metrics.roc_auc_score(labels, inputs), abs=1e-6)
    assert measured.accuracy == sklearn_metrics.accuracy_score(labels, inputs > 0)


@pytest.mark.parametrize("shape", [(1,), (2,), (50,), (50, 1), (50, 3)])
def test_regression_agrees_with_scikit_learn(shape):
    generator = np.random.default_rng(0)
    targets, predictions = generator.normal(1000, 1, size=(2, *shape))
    measured = regression_metrics(torch.tensor(targets), torch.tensor(predictions))
    assert measured.mae == pytest.approx(sklearn_metrics.mean_absolute_error(targets, predictions), abs=1e-6)
    rmse = np.sqrt(sklearn_metrics.mean_squared_error(targets, predictions))
    assert measured.rmse == pytest.approx(rmse, abs=1e-6)
    if shape[0] == 1:
        assert measured.r2 is None
    else:
        assert measured.r2 == pytest.approx(sklearn_metrics.r2_score(targets, predictions), abs=1e-6)


def test_constant_targets_have_no_variance_to_explain():
    targets, predictions = np.ones(4), np.array([1.0, 1.0, 1.0, 2.0])
    measured = regression_metrics(torch.tensor(targets), torch.tensor(predictions))
    assert measured.r2 is None


def test_perplexity_is_that_of_the_tokens_that_count():
    logits = torch.randn(4, 5, 7, dtype=torch.float64)
    labels = torch.randint(7, (4, 5))
    labels[3, 2:] = -100
    batches = [(logits[:3], labels[:3]), (logits[3:], labels[3:])]

    def loss_fn(outputs, targets):
        return CROSS_ENTROPY(outputs.flatten(0, 1), targets.flatten())

    measured = evaluate(
        nn.Identity(), batches, loss_fn, task="language-model", weight=lambda batch: (batch[1] != -100).sum()
    )
    kept = labels.flatten() != -100
    expected = sklearn_metrics.log_loss(
        labels.flatten()[kept], logits.flatten(0, 1)[kept].softmax(dim=1), labels=range(7)
    )
    assert measured.loss == pytest.approx(expected, rel=1e-6)
    assert measured.metrics.perplexity == pytest.approx(np.exp(expected), rel=1e-6)
    assert measured.metrics.accuracy == (logits.argmax(-1) == labels).sum().item() / kept.sum().item()
    assert measured.metrics.num_tokens == 17


@pytest.mark.parametrize("task", ["classification", "regression", "language-model"])
def test_an_empty_set_is_a_clear_error(task):
    with pytest.raises(UserError, match=r"there are 0 \w+ to measure: give a data set that holds some"):
        evaluate(nn.Identity(), [], CROSS_ENTROPY, task=task, num_classes=2)


def test_shapes_that_differ_are_a_clear_error():
    with pytest.raises(UserError, match=r"targets have the shape \(4,\) and predictions \(4, 1\)"):
        regression_metrics(torch.zeros(4), torch.zeros(4, 1))


def test_classification_needs_the_number_of_classes():
    with pytest.raises(UserError, match="num_classes is None"):
        evaluate(nn.Identity(), [], CROSS_ENTROPY, task="classification")
