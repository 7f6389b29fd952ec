"""Errors of predicted values."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gradledger.errors import UserError


@dataclass(frozen=True, slots=True)
class RegressionMetrics:
    """How predicted values compare with true ones.

    Args:
        num_samples: Samples measured.
        mae: Mean absolute error.
        rmse: Root of the mean squared error.
        r2: Share of the variance explained, averaged over outputs; None where an output's targets are all the same.
    """

    num_samples: int
    mae: float
    rmse: float
    r2: float | None


def regression_metrics(targets: Tensor, predictions: Tensor) -> RegressionMetrics:
    """Measure predicted values, in float64.

    Args:
        targets: True values, shape (samples,) or (samples, outputs).
        predictions: Predicted values, as ``targets``.

    Raises:
        UserError: There are no samples, or shapes differ.

    Example:
        >>> import torch
        >>> regression_metrics(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 2.0])).mae
        0.5
    """
    if len(targets) == 0:
        raise UserError("there are 0 samples to measure: give a data set that holds some")
    if targets.shape != predictions.shape:
        raise UserError(
            f"targets have the shape {tuple(targets.shape)} and predictions {tuple(predictions.shape)}: "
            "the model must give one value for each target"
        )
    from torchmetrics.functional import regression as torchmetrics

    true, predicted = (values.double().reshape(len(values), -1) for values in (targets, predictions))
    has_constant_output = bool((true == true[0]).all(dim=0).any())
    return RegressionMetrics(
        num_samples=len(true),
        mae=torchmetrics.mean_absolute_error(predicted.flatten(), true.flatten()).item(),
        rmse=torchmetrics.mean_squared_error(predicted.flatten(), true.flatten(), squared=False).item(),
        r2=None if has_constant_output else torchmetrics.r2_score(predicted, true).item(),
    )
