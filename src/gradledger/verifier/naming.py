"""Names what a loop did to a window's gradient, from the coefficients that the micro-batches ended with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from gradledger.verifier.fitting import Fit, common_factor, countable_units, fit, likely_shares, unit_that_fits
from gradledger.verifier.judging import relative_distance
from gradledger.verifier.result import Cause
from gradledger.verifier.trial import Gradient, Trial

_CLOSE = 1e-3  # coefficients are fitted in the working precision
_FIT = 1e-3
_SMALLEST_SCALER = 256.0
_NOTHING = 1e-5  # what is left of a coefficient that is zero, relative to the largest

Shares = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Window:
    """What a loop did in one window.

    Args:
        stepped: The gradients at each call of the optimizer's step.
        whole: The whole batch's gradient, clipped where the loop is to clip.
        parts: The micro-batches' gradients.
        previous: The gradient that the window before stepped with, where there was one.
        clip_norm: The bound that the loop clips to, as the user says.
    """

    stepped: Sequence[Gradient]
    whole: Gradient
    parts: Sequence[Gradient]
    previous: Gradient | None
    clip_norm: float | None


def name_step_fault(window: Window, trial: Trial) -> tuple[Cause | None, Shares]:
    """The cause, with expected and measured coefficients; no cause where the loss itself is not decomposable."""
    if not window.stepped:
        return _NO_STEP, ()
    if len(window.stepped) > 1:
        return _too_many_steps(len(window.stepped), len(window.parts)), ()
    likely = likely_shares(trial.micro_batches)
    expected = fit(window.whole, window.parts, likely, dtype=trial.dtype)
    if not expected.is_close(_FIT):
        return None, ()
    measured_gradient = window.stepped[0]
    clipped = _clipped(measured_gradient, window)
    if clipped is not None:
        return clipped, ()
    terms = [*window.parts, *([window.previous] if window.previous else [])]
    likely = [expected.coefficients, *likely]
    if window.previous:
        likely = [(*shares, float(is_stale)) for is_stale in (0, 1) for shares in likely]
    measured = fit(measured_gradient, terms, likely, dtype=trial.dtype)
    if not measured.is_close(_FIT):
        return _not_a_sum(measured_gradient, window), ()
    own = measured.coefficients[: len(window.parts)]
    shares = tuple(zip(expected.coefficients, own, strict=True))
    if window.previous is not None and abs(measured.coefficients[-1]) > _CLOSE:
        return _stale(measured.coefficients[-1]), shares
    return _named(own, expected, trial, window), shares


def _named(own: Sequence[float], expected: Fit, trial: Trial, window: Window) -> Cause:
    missing = _missing(own, expected.coefficients)
    if missing is not None:
        return missing
    factor = common_factor(own, expected.coefficients, _CLOSE)
    if factor is not None:
        return _OTHER_CHANGE if abs(factor - 1) <= _CLOSE else _scale(factor, len(own))
    return _uneven(own, expected, trial, window)


_NO_STEP = Cause(
    "num-steps",
    "optimizer.step() was not called in the window: the micro-batches change nothing",
    "step once at the end of the window, also of a short last one; and use the optimizer that step_fn is given",
)
_OTHER_CHANGE = Cause(
    "optimizer",
    "the gradient at the step is the whole batch's, but the parameters change otherwise: something else writes to "
    "them, or the optimizer's state or learning rate changes inside the window",
    "change parameters through optimizer.step() alone, and move schedulers and averages once per update",
)


def _too_many_steps(num_steps: int, num_micro_batches: int) -> Cause:
    per = "once per micro-batch" if num_steps == num_micro_batches else f"{num_steps} times"
    return Cause(
        "num-steps",
        f"optimizer.step() was called {per} in a window of {num_micro_batches} micro-batches: nothing accumulates",
        "step once, after the last micro-batch",
    )


def _stale(coefficient: float) -> Cause:
    return Cause(
        "stale-gradient",
        f"the gradient holds {coefficient:.3f} x the gradient that the update before already stepped with: it was not "
        "zeroed in between",
        "call optimizer.zero_grad() after each step",
        factor=coefficient,
    )


def _missing(own: Sequence[float], expected: Sequence[float]) -> Cause | None:
    largest = max(map(abs, own))
    lost = [
        at for at, (c, e) in enumerate(zip(own, expected, strict=True)) if abs(c) <= _NOTHING * largest and abs(e) > 0
    ]
    kept = [at for at in range(len(own)) if at not in lost]
    if not lost or common_factor([own[at] for at in kept], [expected[at] for at in kept], _CLOSE) is None:
        return None
    if lost == list(range(len(own) - 1)):
        return Cause(
            "discarded-gradient",
            f"only the last of {len(own)} micro-batches counts: the others were zeroed before the step",
            "call optimizer.zero_grad() once per window, not per micro-batch",
        )
    if lost == list(range(len(lost))):
        return Cause(
            "discarded-gradient",
            f"the first {len(lost)} of {len(own)} micro-batches do not count: they were zeroed inside the window",
            "call optimizer.zero_grad() once per window",
        )
    shown = ", ".join(str(at + 1) for at in lost)
    return Cause(
        "missing-micro-batch",
        f"micro-batch {shown} of {len(own)} does not count: it was left out, or its gradient came after the step",
        "send every micro-batch's loss backward before the step",
    )


def _scale(factor: float, num_micro_batches: int) -> Cause:
    def is_near(value: float) -> bool:
        return math.isclose(factor, value, rel_tol=_CLOSE)

    exponent = math.log2(factor) if factor > 0 else 0.5
    if is_near(num_micro_batches):
        why, fix = "not divided by the number of micro-batches", "divide each loss by the number of micro-batches"
    elif is_near(1 / num_micro_batches):
        why = "divided by the number of micro-batches twice, or a mean was taken for a sum"
        fix = "divide in one place only (Accelerate's, Lightning's and the Trainer's backward divide already)"
    elif factor >= _SMALLEST_SCALER and abs(exponent - round(exponent)) <= _CLOSE:
        why = "the gradient scaler's factor was not taken out"
        fix = "step with scaler.step(optimizer), which unscales"
    elif 0 < factor <= 1 / _SMALLEST_SCALER and abs(exponent - round(exponent)) <= _CLOSE:
        why = "the gradient scaler's factor was taken out twice"
        fix = "unscale each optimizer once per window, and call scaler.update() once, after the last optimizer's step"
    else:
        why, fix = "a constant factor", "divide each loss by the window's own number of units, not by a constant"
    message = f"the gradient is {_number(factor)} x the expected one: {why}"
    return Cause("wrong-scale", message, fix, factor=factor)


def _number(factor: float) -> str:
    return f"{factor:.3f}" if abs(factor) >= 0.01 else f"{factor:.3g}"


def _uneven(own: Sequence[float], expected: Fit, trial: Trial, window: Window) -> Cause:
    units = countable_units(trial.micro_batches)
    of_loop, of_loss = (unit_that_fits(values, units, _CLOSE) for values in (own, expected.coefficients))
    total = math.fsum(own)
    listed = f"with {_shown(own)}, expected {_shown(expected.coefficients)}"
    wanted = of_loss.description if of_loss is not None else "what the whole batch's loss divides by"
    if of_loop is not None and of_loop.description == "micro-batches":
        extra = "" if abs(total - 1) <= 10 * _CLOSE else f", and together {total:.3f} x"
        return Cause(
            "wrong-denominator",
            f"micro-batches count equally{extra}, but the loss is a mean over {wanted}: they take part {listed}",
            "weight each micro-batch's loss by its share of the window's units",
            factor=None if not extra else total,
        )
    declining = all(later >= earlier * (1 - _CLOSE) for earlier, later in _steps(own, expected.coefficients))
    if declining and window.clip_norm is None and total < 1 - _CLOSE:
        return Cause(
            "clip",
            f"earlier micro-batches count less than later ones: they take part {listed}, as when the gradient is "
            "clipped between them",
            "clip once per window, after its last micro-batch",
        )
    if of_loop is not None:
        return Cause(
            "wrong-denominator",
            f"micro-batches are weighted by {of_loop.description}, but the loss is a mean over {wanted}: they take "
            f"part {listed}",
            "weight each micro-batch's loss by its share of the window's units",
        )
    return Cause(
        "uneven-scale",
        f"micro-batches take part {listed}",
        "give every micro-batch its share of the window's units, also in a short window",
    )


def _steps(own: Sequence[float], expected: Sequence[float]) -> list[tuple[float, float]]:
    ratios = [c / e for c, e in zip(own, expected, strict=True) if e]
    return list(pairwise(ratios))


def _clipped(gradient: Gradient, window: Window) -> Cause | None:
    """A gradient of the right direction whose norm is a round number was clipped to it."""
    norm, whole = (math.hypot(*(float(g.norm()) for g in each.values())) for each in (gradient, window.whole))
    if not norm or not whole or norm >= whole * (1 - _CLOSE):
        return None
    stretched = {name: value * (whole / norm) for name, value in gradient.items()}
    if relative_distance(stretched, window.whole) > _CLOSE:
        return None
    is_round = math.isclose(norm, float(f"{norm:.2g}"), rel_tol=1e-4)
    if not is_round or window.clip_norm is not None:
        return None
    return Cause(
        "clip",
        f"the gradient has the whole batch's direction and the norm {norm:.4g}, of {whole:.4g}: the loop clips it",
        f"say so, to compare with the clipped gradient: clip_norm={norm:.2g}",
        factor=norm / whole,
    )


def _not_a_sum(gradient: Gradient, window: Window) -> Cause:
    limit = max((float(g.abs().max()) for g in gradient.values() if g.numel()), default=0.0)
    cut = {name: value.clamp(-limit, limit) for name, value in window.whole.items()}
    if relative_distance(gradient, cut) <= _CLOSE:
        return Cause(
            "clip",
            f"the gradient is the whole batch's with values cut at {limit:.4g}: the loop clips by value",
            "verify the loop without it",
        )
    unlike = [n for n, g in window.whole.items() if n not in gradient and bool(torch.any(g != 0))]
    if unlike:
        return Cause(
            "missing-micro-batch",
            f"{', '.join(unlike[:3])} have no gradient at the step, but the whole batch gives them one",
            "let the loop's loss depend on them, or freeze them",
            where=unlike[0],
        )
    return Cause(
        "unknown",
        "the gradient at the step is no sum of the micro-batches' gradients: the loop's loss is another one than "
        "loss_fn, or it changes gradients by itself",
        "compare the two losses on one micro-batch",
    )


def _shown(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values[:6])
    return shown + (", ..." if len(values) > 6 else "")
