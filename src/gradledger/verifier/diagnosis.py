"""Finds out, by one experiment after another, why micro-batches do not come to the whole batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from gradledger.engine.weights import WeightTable
from gradledger.verifier.coupling import loss_couples_samples
from gradledger.verifier.fitting import Fit, common_factor, countable_units, fit, likely_shares, unit_that_fits
from gradledger.verifier.judging import relative_distance
from gradledger.verifier.layers import Call, first_coupled_layer, watch
from gradledger.verifier.result import Cause
from gradledger.verifier.trial import Gradient, Trial

_FIT = 1e-5  # what least squares leaves of float64's rounding where micro-batches are much alike


@dataclass(frozen=True)
class Evidence:
    """What the experiments share: each forward and gradient is computed once.

    Args:
        trial: The way to run the task.
    """

    trial: Trial

    @cached_property
    def whole(self) -> Gradient:
        """The whole batch's gradient, as the loss gives it."""
        return self.trial.gradient()

    @cached_property
    def parts(self) -> list[Gradient]:
        """The micro-batches' own gradients, as the loss gives them."""
        return [self.trial.gradient(at) for at in range(len(self.trial.micro_batches))]

    @cached_property
    def fit(self) -> Fit:
        """The whole batch's gradient as a sum of the micro-batches'."""
        counted = self.trial.weights().weights
        candidates = [(1.0,) * len(counted), counted, *likely_shares(self.trial.micro_batches)]
        return fit(self.whole, self.parts, candidates, dtype=self.trial.dtype)

    @property
    def tolerance(self) -> float:
        """What a fit may leave unexplained."""
        return max(_FIT, self.trial.resolution)

    @cached_property
    def calls(self) -> list[Call]:
        """The module calls of the whole batch's forward."""
        return watch(self.trial, None)

    @cached_property
    def part_calls(self) -> list[list[Call]]:
        """The module calls of the micro-batches' forwards."""
        return [watch(self.trial, at) for at in range(len(self.trial.micro_batches))]


def find_cause(evidence: Evidence) -> Cause:
    """The first cause that an experiment shows."""
    for experiment in (_ignores_upstream, _keeps_state, _couples_in_a_layer, _couples_in_the_loss, _denominators):
        cause = experiment(evidence)
        if cause is not None:
            return cause
    return Cause(
        "several-denominators",
        "the whole batch's gradient is no weighted sum of the micro-batches' gradients, although no layer and no loss "
        f"couples samples ({100 * evidence.fit.residual:.3g} % of it stays unexplained): the loss adds terms that are "
        "means over unlike units",
        "return the terms apart, as a mapping by unit, and give a weight for each: weight={'tokens': ..., 'samples': "
        "...}; in training call window.backward(loss, per='tokens') for each",
    )


def _ignores_upstream(evidence: Evidence) -> Cause | None:
    doubled = evidence.trial.gradient(upstream=2.0)
    wrong = [
        name
        for name, gradient in evidence.whole.items()
        if float((doubled[name] - 2 * gradient).norm()) > evidence.trial.resolution * float(gradient.norm())
    ]
    if not wrong:
        return None
    loss = next(iter(evidence.trial.losses(evidence.trial.fresh()).values()))
    whole = len(wrong) == len(evidence.whole)
    where = loss.grad_fn.name() if whole and loss.grad_fn is not None else _custom_function(loss) or wrong[0]
    shown = "all parameters" if whole else f"{', '.join(wrong[:3])}{' and others' if len(wrong) > 3 else ''}"
    return Cause(
        "ignored-upstream-gradient",
        f"with the loss scaled by 2, the gradients of {shown} do not double: the backward of {where} ignores the "
        "gradient that it is given, so no coefficient of a micro-batch reaches them",
        "multiply by grad_output in that backward",
        where=where,
        factor=_ratio(doubled, evidence.whole, wrong[0]),
    )


def _keeps_state(evidence: Evidence) -> Cause | None:
    trial = evidence.trial
    model = trial.fresh()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    first = trial.gradient(model=model)
    second = trial.gradient(model=model)
    if relative_distance(second, first) <= trial.resolution:
        return None
    moved = [name for name, buffer in model.named_buffers() if name in before and not _same(before[name], buffer)]
    what = f"its buffers {', '.join(moved[:3])} move" if moved else "state that the model or the loss keeps moves"
    return Cause(
        "keeps-state",
        f"the same batch gives another gradient the second time: {what} with every forward, so that each micro-batch "
        "meets another state than the whole batch",
        "move the state once per update (accumulator.on_update), or leave it out of what the loss depends on",
        where=moved[0] if moved else None,
    )


def _couples_in_a_layer(evidence: Evidence) -> Cause | None:
    layer = first_coupled_layer(evidence.calls, evidence.part_calls, evidence.trial.resolution)
    if layer is None:
        return None
    name = f"{layer.name!r} ({layer.kind})" if layer.name else f"the model's own forward ({layer.kind})"
    where = name if layer.before is None else f"code in the forward of {name}, before {layer.before!r},"
    is_norm = "BatchNorm" in layer.kind
    return Cause(
        "coupled-layer",
        f"{where} gives a sample another output in a micro-batch than in the whole batch"
        + (": in training mode it normalises by the statistics of what it is given" if is_norm else ""),
        "use GroupNorm or LayerNorm, or evaluation mode; batch_norm='pooled' repairs the running statistics only"
        if is_norm
        else "compute it per sample, or over the whole batch with accumulator.update_coupled",
        where=layer.name or layer.kind,
    )


def _couples_in_the_loss(evidence: Evidence) -> Cause | None:
    place = loss_couples_samples(evidence.trial, evidence.calls, evidence.part_calls)
    if place is None:
        return None
    behind = f"behind {place!r}" if place else "behind the model's output"
    return Cause(
        "coupled-loss",
        f"the loss couples samples: {behind}, a sample's gradient changes when another sample's activations do, so the "
        "loss of the whole batch is no mean of the micro-batches' losses",
        "use accumulator.update_coupled(batch, encode, loss_fn, ...), which is exact for such losses",
        where=place or None,
    )


def _denominators(evidence: Evidence) -> Cause | None:
    units = [unit for unit in evidence.trial.losses(evidence.trial.fresh()) if unit is not None]
    if len(units) > 1:
        terms = (Evidence(replace(evidence.trial, only=unit)) for unit in units)
        return next((cause for term in terms if (cause := _denominators(term)) is not None), None)
    if not evidence.fit.is_close(evidence.tolerance):
        return None
    weights = evidence.trial.weights()
    is_mean = evidence.trial.task.reduction == "mean"
    expected = [weight / weights.total if is_mean else 1.0 for weight in weights.weights]
    return name_denominator(evidence.fit.coefficients, expected, evidence.trial, is_mean=is_mean)


def name_denominator(
    measured: Sequence[float], expected: Sequence[float], trial: Trial, *, is_mean: bool
) -> Cause | None:
    """What a loss is a mean over, from the coefficients of its micro-batches; None where they are as expected."""
    tolerance = max(_FIT, 10 * trial.resolution)
    factor = common_factor(measured, expected, tolerance)
    if factor is not None and abs(factor - 1) <= tolerance:
        return None
    if is_mean and all(abs(coefficient - 1) <= tolerance for coefficient in measured):
        return Cause(
            "wrong-scale",
            "the loss is a sum over its samples, or is divided by a constant, but was taken for a mean: "
            + (
                f"the micro-batches come to {1 / factor:.3f} x the whole batch"
                if factor
                else _listed(measured, expected)
            ),
            "divide the loss by its own number of units, or give reduction='sum' with the weight that counts them",
            factor=1 / factor if factor else None,
        )
    found = unit_that_fits(measured, countable_units(trial.micro_batches), tolerance)
    own_unit = trial.only or _unit_name(trial.task.weight)
    if found is not None and not is_mean:
        return Cause(
            "wrong-scale",
            f"the loss is a mean over {found.description}, but was taken for a sum",
            "give reduction='mean'",
        )
    if found is not None:
        return Cause(
            "wrong-denominator",
            f"the loss is a mean over {found.description} ({_counts(found.counts)} in the micro-batches), but was "
            f"weighted by {own_unit} ({_counts(trial.weights().weights)})",
            f"give {found.fix}",
        )
    return Cause(
        "wrong-denominator",
        f"the loss is a mean over something else than {own_unit}: {_listed(measured, expected)}",
        "give weight= a callable that counts what the loss divides by, such as the sum of class weights",
    )


def _unit_name(weight: Any) -> str:
    """What a weight counts, in words."""
    is_named = weight is None or isinstance(weight, Mapping) or hasattr(weight, "unit")
    return WeightTable(weight).primary_unit if is_named else "the given weight="


def _listed(measured: Sequence[float], expected: Sequence[float]) -> str:
    return f"micro-batches take part with {_counts(measured)}, expected {_counts(expected)}"


def _counts(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values[:6])
    return shown + (", ..." if len(values) > 6 else "")


def _ratio(one: Gradient, other: Gradient, name: str) -> float | None:
    norm = float(other[name].norm())
    return float(one[name].norm()) / norm if norm else None


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _custom_function(loss: Tensor) -> str | None:
    """The first function written in Python in a loss's graph."""
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(type(node), "_forward_cls"):
            return node.name()
        waiting += [parent for parent, _ in node.next_functions]
    return None
