"""Accuracy, precision, recall, F1, the confusion matrix, and the areas under the ROC and precision-recall curves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradledger.errors import UserError


@dataclass(frozen=True, slots=True)
class ClassificationMetrics:
    """How predicted classes compare with true ones.

    Precision is 0 for a class that was never predicted, recall 0 for one without samples. The macro values are means
    over the classes that occur among labels or predictions.

    Args:
        num_samples: Samples measured.
        accuracy: Share of samples whose class was predicted.
        precision: For each class, the share of its predictions that are right.
        recall: For each class, the share of its samples that are found.
        f1: For each class, the harmonic mean of precision and recall.
        support: Samples of each class.
        confusion: ``confusion[i][j]``: samples of class i that were predicted as class j.
        macro_precision: Mean precision.
        macro_recall: Mean recall.
        macro_f1: Mean F1.
        roc_auc: Of class 1, where there are two classes, both present, and scores were given.
        pr_auc: Average precision of class 1, under the same conditions.
    """

    num_samples: int
    accuracy: float
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    support: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...]
    macro_precision: float
    macro_recall: float
    macro_f1: float
    roc_auc: float | None = None
    pr_auc: float | None = None


def classification_metrics(
    labels: Tensor, predictions: Tensor, *, num_classes: int, scores: Tensor | None = None
) -> ClassificationMetrics:
    """Measure predicted classes.

    Args:
        labels: True classes, whole numbers from 0, shape (samples,).
        predictions: Predicted classes, as ``labels``.
        num_classes: Number of classes, at least 2.
        scores: For two classes, anything that grows with the belief in class 1, shape (samples,).

    Raises:
        UserError: There are no samples, shapes differ, or a class is out of range.

    Example:
        >>> measured = classification_metrics(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 0]), num_classes=2)
        >>> measured.accuracy, measured.recall
        (0.75, (1.0, 0.0))
    """
    _check(labels, predictions, num_classes)
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    confusion = multiclass_confusion_matrix(predictions, labels, num_classes=num_classes)
    # In float64 from the counts: torchmetrics' own precision and recall are float32, 0.9 reads 0.8999999761581421.
    right, support, predicted = (
        counts.double() for counts in (confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0))
    )
    precision, recall, f1 = (
        _ratio(right, predicted), _ratio(right, support), _ratio(2 * right, support + predicted)
    )  # fmt: skip
    occurs = support + predicted > 0
    roc_auc, pr_auc = _areas(labels, scores, num_classes)
    return ClassificationMetrics(
        num_samples=len(labels),
        accuracy=right.sum().item() / len(labels),
        precision=tuple(precision.tolist()),
        recall=tuple(recall.tolist()),
        f1=tuple(f1.tolist()),
        support=tuple(confusion.sum(dim=1).tolist()),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        macro_precision=precision[occurs].mean().item(),
        macro_recall=recall[occurs].mean().item(),
        macro_f1=f1[occurs].mean().item(),
        roc_auc=roc_auc,
        pr_auc=pr_auc,
    )


def classes_and_scores(outputs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Predicted classes, and scores of class 1 where there are two classes.

    Args:
        outputs: Logits of shape (samples, classes); or (samples,) or (samples, 1), one logit for class 1.
    """
    if outputs.dim() == 1 or outputs.shape[1] == 1:
        logit = outputs.reshape(-1).double()
        return (logit > 0).long(), logit
    scores = (outputs[:, 1].double() - outputs[:, 0].double()) if outputs.shape[1] == 2 else None
    return outputs.argmax(dim=1), scores


def _check(labels: Tensor, predictions: Tensor, num_classes: int) -> None:
    if len(labels) == 0:
        raise UserError("there are 0 samples to measure: give a data set that holds some")
    if labels.shape != predictions.shape or labels.dim() != 1:
        raise UserError(
            f"labels have the shape {tuple(labels.shape)} and predictions {tuple(predictions.shape)}: "
            "both must be (samples,)"
        )
    if num_classes < 2:
        raise UserError(f"num_classes is {num_classes}: classification needs at least 2 classes")
    for what, classes in (("labels", labels), ("predictions", predictions)):
        lowest, highest = int(classes.min()), int(classes.max())
        if lowest < 0 or highest >= num_classes:
            raise UserError(
                f"{what} reach from {lowest} to {highest}, but {num_classes} classes are numbered 0 to "
                f"{num_classes - 1}"
            )


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Elementwise, 0 where there is nothing to divide by."""
    return torch.where(whole > 0, part / whole.clamp(min=1), 0.0)


def _areas(labels: Tensor, scores: Tensor | None, num_classes: int) -> tuple[float | None, float | None]:
    one_class_only = int(labels.min()) == int(labels.max())
    if scores is None or num_classes != 2 or one_class_only or not bool(torch.isfinite(scores).all()):
        return None, None
    from torchmetrics.functional import classification as torchmetrics

    # Only the order of scores counts. Ranks keep it, and ties as well, where a float32 sigmoid would make new ties.
    distinct, ranks = torch.unique(scores, return_inverse=True)
    probabilities = (ranks.double() + 1) / (len(distinct) + 1)
    return (
        torchmetrics.binary_auroc(probabilities, labels).item(),
        torchmetrics.binary_average_precision(probabilities, labels).item(),
    )
