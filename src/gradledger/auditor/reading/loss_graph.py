"""What a loss's autograd graph says about it: scale, reduction, weight. Read before the backward, without a host sync.

From the root downwards, multiplications and divisions by constants are factors; the first node that reduces (a mean, a
sum, a loss function with its reduction) ends the walk. What is not understood makes the answer unknown, never a guess.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

from gradledger.auditor.reading.saved import saved
from gradledger.ledger import Reduction

SCALER_MARK = "gradledger.scaler"
"""Key in a node's metadata: this multiplication is a gradient scaler's."""

_PASS_THROUGH = frozenset(
    {
        "AliasBackward0", "CloneBackward0", "ReshapeAliasBackward0", "SqueezeBackward0", "SqueezeBackward1",
        "ToCopyBackward0", "UnsafeViewBackward0", "UnsqueezeBackward0", "ViewBackward0", "NegBackward0",
    }
)  # fmt: skip
_LOSSES = (
    "NllLoss", "MseLoss", "BinaryCrossEntropy", "SmoothL1Loss", "HuberLoss", "MultiMarginLoss", "SoftMarginLoss",
    "MultilabelMarginLoss", "L1Loss",
)  # fmt: skip
_REDUCTIONS: dict[int, Reduction] = {1: "mean", 2: "sum"}
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Factor:
    """A constant that multiplies the loss, without its sign: a loss that is maximised balances as well."""

    value: float
    is_division: bool


@dataclass(slots=True)
class Reading:
    """What is known of a loss.

    Args:
        factors: Constants that multiply it, outermost first. None: one of them is not known.
        reduction: How it reduces over its units. None: unknown.
        weight: Units that it reduces over. None: unknown.
        unit: What these are.
        scaled_by_scaler: A gradient scaler's multiplication was met.
        coupled: Its labels are the positions of the samples in the micro-batch.
        is_cross_entropy: It is one cross entropy and nothing else.
    """

    factors: list[Factor] | None = field(default_factory=list)
    reduction: Reduction | None = None
    weight: float | None = None
    unit: str = "samples"
    scaled_by_scaler: bool = False
    coupled: bool = False
    is_cross_entropy: bool = False

    def multiply(self, factor: Factor | None) -> None:
        """Take in one more factor; None is one that is not known."""
        if self.factors is not None:
            self.factors = None if factor is None else [*self.factors, factor]

    def leave_open(self) -> None:
        """The loss is over the whole window: each backward brings its part of it, and the parts add up."""
        self.coupled, self.reduction = False, None

    @property
    def values(self) -> tuple[float, ...] | None:
        """The factors as numbers, ones left out."""
        if self.factors is None:
            return None
        return tuple(factor.value for factor in self.factors if factor.value != 1.0)

    @property
    def own_half(self) -> bool | None:
        """One half among the factors may be the loss's own; None where there is no half."""
        halves = [factor for factor in self.factors or () if factor.value == 0.5]
        if not halves:
            return None
        return not (self.is_cross_entropy and all(factor.is_division for factor in halves))

    @property
    def scale(self) -> float | None:
        """The product of the factors."""
        return None if self.factors is None else math.prod(factor.value for factor in self.factors)


def read_loss(loss: Any, gradient: Any = None, *, scaled: bool = True) -> Reading:
    """Read a loss's graph.

    Args:
        loss: The tensor that backward starts from.
        gradient: What backward was given to start with: a factor where it is a number.
        scaled: A gradient scaler has been used, so that its mark may be met.
    """
    reading = Reading()
    if gradient is not None:
        reading.multiply(_constant(gradient, is_division=False))
    node = getattr(loss, "grad_fn", None)
    if node is None or loss.numel() != 1:
        return Reading(factors=None)
    return _read(node, reading, scaled)


def _read(node: Any, reading: Reading, scaled: bool, depth: int = 0) -> Reading:
    while depth < _MAX_DEPTH and node is not None:
        depth += 1
        name = node.name()
        paths = [path for path, _ in node.next_functions]
        open_paths = [path for path in paths if path is not None]
        if scaled and SCALER_MARK in node.metadata:
            reading.scaled_by_scaler = True
        elif name.startswith(("MulBackward", "DivBackward")):
            if len(open_paths) != 1 or (name.startswith("Div") and paths[0] is None):
                return reading
            reading.multiply(_operand(node, paths, is_division=name.startswith("Div")))
        elif name.startswith(("AddBackward", "SubBackward")):
            if len(open_paths) > 1:
                return _read_terms(open_paths, reading, scaled, depth)
        elif name not in _PASS_THROUGH and not _is_reduction_of_one(node, name):
            return _read_reduction(node, name, reading)
        node = open_paths[0] if open_paths else None
    return reading


def _operand(node: Any, paths: list[Any], *, is_division: bool) -> Factor | None:
    return _constant(saved(node, "other" if paths[0] is not None else "self"), is_division)


def _constant(constant: Any, is_division: bool) -> Factor | None:
    """The value of a number or of a one-element tensor on the CPU: others could not be read without waiting."""
    if isinstance(constant, torch.Tensor):
        if constant.numel() != 1 or constant.device.type != "cpu":
            return None
        constant = constant.item()
    if not isinstance(constant, int | float) or (is_division and constant == 0):
        return None
    return Factor(abs(1 / constant if is_division else float(constant)), is_division)


def _is_reduction_of_one(node: Any, name: str) -> bool:
    """``loss.mean()`` of a loss that is one number already."""
    return name in ("MeanBackward0", "SumBackward0") and math.prod(node._saved_self_sym_sizes) == 1


def _read_reduction(node: Any, name: str, reading: Reading) -> Reading:
    if name.startswith(_LOSSES):
        _read_loss_function(node, name, reading)
    elif name == "MeanBackward0":
        reading.reduction, reading.weight = "mean", float(node._saved_self_sym_numel)
        reading.unit = "elements" if len(node._saved_self_sym_sizes) > 1 else "samples"
    elif name == "MeanBackward1" and len(node._saved_self_sym_sizes) == 1:
        reading.reduction, reading.weight = "mean", float(node._saved_self_sym_numel)
    elif name == "SumBackward0":
        sizes = tuple(node._saved_self_sym_sizes)
        reading.reduction, reading.weight = "sum", float(math.prod(sizes))
        reading.unit = "elements" if len(sizes) > 1 else "samples"
        _read_own_division(sizes, reading)
    return reading


def _read_loss_function(node: Any, name: str, reading: Reading) -> None:
    reading.reduction = _REDUCTIONS.get(node._saved_reduction)
    reading.is_cross_entropy = name.startswith(("NllLoss", "BinaryCrossEntropy"))
    if name.startswith("NllLoss"):
        _read_nll(node, name, reading)
    else:
        outputs = saved(node, "self")
        reading.weight = None if outputs is None else float(outputs.numel())
        reading.unit = "elements"
    target = saved(node, "target")
    if reading.reduction == "sum" and target is not None:
        _read_own_division(tuple(target.shape), reading)


def _read_nll(node: Any, name: str, reading: Reading) -> None:
    logits, target, total = saved(node, "self"), saved(node, "target"), saved(node, "total_weight")
    if logits is None or target is None:
        return
    per_position = name.startswith("NllLoss2D") or logits.dim() > 2
    reading.unit = "tokens" if per_position else "samples"
    # Class weights make the denominator another quantity.
    if node._raw_saved_weight.data is None and total is not None and total.device.type == "cpu":
        reading.weight = total.item()
    reading.coupled = _labels_are_positions(logits, target)


def _labels_are_positions(logits: Any, target: Any) -> bool:
    """Square logits whose labels are a permutation of the rows: each sample is told from the others."""
    num_samples = target.numel()
    if logits.dim() != 2 or tuple(logits.shape) != (num_samples, num_samples) or num_samples < 4:
        return False
    if target.device.type != "cpu":
        return False
    return bool(torch.equal(torch.sort(target).values, torch.arange(num_samples, dtype=target.dtype)))


def _read_own_division(sizes: tuple[int, ...], reading: Reading) -> None:
    """A sum that is divided at once by its own number of units is a mean, and that division is not a factor."""
    factors = reading.factors
    if not factors or not factors[-1].is_division:
        return
    divisor = 1 / factors[-1].value
    own_counts = (*sizes, math.prod(sizes), reading.weight or 0)
    is_own_count = any(math.isclose(divisor, count) for count in own_counts if count > 1)
    # More than there are of its own units are the whole window's.
    is_divided_again = divisor <= max(own_counts) and any(_is_whole_share(factor) for factor in factors[:-1])
    if is_own_count or is_divided_again:
        reading.reduction, reading.weight, reading.factors = "mean", divisor, factors[:-1]


def _is_whole_share(factor: Factor) -> bool:
    value = abs(factor.value)
    return factor.is_division and 0 < value <= 0.5 and math.isclose(1 / value, round(1 / value), rel_tol=1e-6)


def _read_terms(paths: list[Any], reading: Reading, scaled: bool, depth: int) -> Reading:
    """A sum of several losses: what they have in common is known of the whole."""
    terms = [_read(path, Reading(), scaled, depth) for path in paths]
    reading.scaled_by_scaler = reading.scaled_by_scaler or any(term.scaled_by_scaler for term in terms)
    reading.coupled = any(term.coupled for term in terms)
    means = [term for term in terms if term.reduction == "mean"]
    for term in terms:
        _read_same_count(term, means)
    if not means or any(term.reduction == "sum" for term in terms):
        return reading
    shared = _shared_factors([term for term in terms if term.reduction])
    if shared is None:
        return reading
    for factor in shared:
        reading.multiply(factor)
    reading.reduction = "mean"
    weights = {(term.weight, term.unit) for term in means}
    if len(weights) == 1:
        reading.weight, reading.unit = weights.pop()
    return reading


def _read_same_count(term: Reading, means: list[Reading]) -> None:
    """A sum that is divided by the number of units of a mean beside it is a mean too (label smoothing)."""
    if term.reduction == "sum" and term.factors and term.factors[-1].is_division:
        divisor = 1 / term.factors[-1].value
        if any(mean.weight is not None and math.isclose(divisor, mean.weight) for mean in means):
            term.reduction, term.weight, term.factors = "mean", divisor, term.factors[:-1]


def _shared_factors(terms: list[Reading]) -> list[Factor] | None:
    """The factors that every term has; None where one term is divided by a whole number and another is not."""
    if any(term.factors is None for term in terms):
        return None
    counts = [Counter(term.factors or ()) for term in terms]
    shared = counts[0].copy()
    for count in counts[1:]:
        shared &= count
    rest = [factor for count in counts for factor in (count - shared).elements()]
    return None if any(_is_whole_share(factor) for factor in rest) else list(shared.elements())
