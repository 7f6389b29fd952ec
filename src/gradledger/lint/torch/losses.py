"""Loss functions: what they reduce over, and what that says of the scale."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from gradledger.lint.machine.values import Tensor, Unknown, Value
from gradledger.lint.torch import tensors

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

LAYERS = frozenset(
    {
        "CrossEntropyLoss", "NLLLoss", "MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "BCELoss",
        "BCEWithLogitsLoss", "KLDivLoss", "CTCLoss", "MultiMarginLoss", "MarginRankingLoss",
        "TripletMarginLoss", "CosineEmbeddingLoss", "HingeEmbeddingLoss", "PoissonNLLLoss", "GaussianNLLLoss",
        "SoftMarginLoss", "MultiLabelMarginLoss", "MultiLabelSoftMarginLoss", "TripletMarginWithDistanceLoss",
    }
)  # fmt: skip
FUNCTIONS = frozenset(
    {
        "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss",
        "binary_cross_entropy", "kl_div", "ctc_loss", "binary_cross_entropy_with_logits", "multi_margin_loss",
        "margin_ranking_loss", "triplet_margin_loss", "cosine_embedding_loss", "hinge_embedding_loss",
        "poisson_nll_loss", "gaussian_nll_loss", "soft_margin_loss", "multilabel_margin_loss",
        "multilabel_soft_margin_loss",
    }
)  # fmt: skip
_OVER_TARGETS = frozenset({"CrossEntropyLoss", "NLLLoss", "cross_entropy", "nll_loss"})


def layer_reduction(kind: str, kwargs: dict[str, Value]) -> str | None:
    """The reduction of a loss layer; None if the layer is no loss."""
    return reduction_of(kwargs) if kind in LAYERS else None


def reduction_of(kwargs: dict[str, Value]) -> str:
    """``reduction=`` as given; mean by default."""
    if kwargs.get("size_average") is False:
        return "sum"
    reduction = kwargs.get("reduction", "mean")
    return reduction if isinstance(reduction, str) else "unknown"


def loss(
    machine: Machine, kind: str, args: list[Value], kwargs: dict[str, Value], node: ast.AST, *, reduction: str
) -> Tensor:
    """What a loss function gives."""
    inputs = [tensors.as_tensor(arg) for arg in args]
    inputs += [tensors.as_tensor(kwargs[name]) for name in ("input", "target") if name in kwargs]
    leaves = frozenset[Value]().union(*(tensor.leaves for tensor in inputs))
    result = Tensor(
        (),
        frozenset() if machine.no_grad else leaves,
        coupled=any(tensor.coupled for tensor in inputs) or (len(inputs) > 1 and inputs[1].is_positions),
        batch_norm=any(tensor.batch_norm for tensor in inputs),
    )
    count, unit = _units(kind, inputs)
    tokens = kind in _OVER_TARGETS and "ignore_index" in kwargs
    if reduction in ("mean", "sum"):
        known = None if tokens else count
        weight = 4.0 if known is None else float(known)
        return result.like(reduction=reduction, weight=weight, assumed=known is None, unit=unit)
    if reduction == "none":
        target = inputs[-1] if kind in _OVER_TARGETS and inputs else (inputs[0] if inputs else result)
        return result.like(shape=target.shape, weight=4.0, assumed=True)
    if reduction == "batchmean":
        rows = inputs[0].rows if inputs else None
        return result.like(reduction="mean", weight=float(rows) if rows else 4.0, assumed=not rows)
    return result.like(factors=None)


def _units(kind: str, inputs: list[Tensor]) -> tuple[int | None, str]:
    """Over how many units the loss is reduced: targets of a classification, elements otherwise."""
    if not inputs:
        return None, "samples"
    if kind in _OVER_TARGETS and len(inputs) > 1:
        targets, scores = inputs[1], inputs[0]
        if targets.shape is not None and scores.shape is not None and len(targets.shape) == len(scores.shape) > 1:
            return targets.rows, "samples"  # class probabilities
        return tensors.numel(targets.shape), "samples"
    if "ctc" in kind.lower():  # its first input is time × samples × classes
        shape = inputs[0].shape
        return (shape[1] if shape is not None and len(shape) == 3 else None), "samples"
    if "triplet" in kind.lower() or "cosine" in kind.lower():
        return inputs[0].rows, "samples"
    shape = inputs[0].shape if len(inputs) < 2 else tensors.broadcast(inputs[0].shape, inputs[1].shape)
    count = tensors.numel(shape)
    return (inputs[0].rows, "samples") if count is None else (count, "elements")


def unknown_loss(machine: Machine, args: list[Value], kwargs: dict[str, Value]) -> Tensor:
    """A loss function that is not in the file: by custom, a mean."""
    inputs = [value for value in [*args, *kwargs.values()] if isinstance(value, Tensor | Unknown)]
    leaves = frozenset[Value]().union(*(tensors.as_tensor(value).leaves for value in inputs))
    return Tensor((), frozenset() if machine.no_grad else leaves, reduction="mean", weight=4.0, assumed=True)
