"""What a comparison shows, in sentences with their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradledger.metrics import ClassificationMetrics
from gradledger.train.arms import lr_factor
from gradledger.train.comparison import ArmRun, Comparison, random_or_coupled_layers
from gradledger.train.statistics import Estimate

CLAIMED_GAIN = 0.08
"""The founding example went from 70 % to 78 % validation accuracy by accumulating."""

EXACT_IN_FLOAT64 = 1e-9
"""Relative: far above what float64 rounding grows to over a run, far below what any mistake makes."""

HIGH_ACCURACY, HIDDEN_GAP = 0.9, 0.25
"""Accuracy misleads where it is high and a class's recall is this far below it."""


def statements_of(comparison: Comparison) -> list[str]:
    """The sentences; each follows from the runs that there are."""
    return [*_exactness(comparison), *_founding_example(comparison), *_clipping(comparison), *_broken(comparison),
            *_hidden_recall(comparison)]  # fmt: skip


def _exactness(comparison: Comparison) -> Iterator[str]:
    if not comparison.differences:
        return
    largest = max(difference.relative for difference in comparison.differences)
    ends = f"Accumulated and large batch end with parameters that differ by at most {largest:.1e} (relative) in float32"
    if len(comparison.in_float64) < 2:
        yield f"{ends}, over {len(comparison.differences)} seeds."
        return
    first, last = comparison.in_float64
    if last.relative <= EXACT_IN_FLOAT64:
        yield f"{ends} and {last.relative:.1e} in float64: nothing but rounding."
    elif first.relative <= EXACT_IN_FLOAT64:
        yield (
            f"{ends} and {last.relative:.1e} in float64. After the first update it is {first.relative:.1e} in float64: "
            "the updates are equal but for rounding, and this training is so unstable that rounding grows."
        )
    else:
        layers = random_or_coupled_layers(comparison.config, comparison.data)
        cause = (
            f"the model has {' and '.join(layers)}, which draw or count anew for each micro-batch"
            if layers
            else "the model or the loss does not see a batch as the sum of its samples"
        )
        yield f"{ends}, and by {first.relative:.1e} after the first update in float64, which is no rounding: {cause}."


def _founding_example(comparison: Comparison) -> Iterator[str]:
    if comparison.data.task != "classification" or not comparison.has("small-batch", "accumulated"):
        return
    gain = comparison.paired("accumulated", "small-batch", "accuracy")
    if not gain.num_seeds:
        return
    verdict = "reproduces" if gain.lower > 0 and gain.upper >= CLAIMED_GAIN else "does not reproduce"
    small, accumulated = (comparison.estimate(arm, "accuracy") for arm in ("small-batch", "accumulated"))
    yield (
        f"The founding example's 70 % → 78 % by accumulating {verdict} here: validation accuracy is {percent(small)} "
        f"with the small batch and {percent(accumulated)} accumulated, a change of {points(gain)} points over "
        f"{gain.num_seeds} seeds (95 % intervals)."
    )
    if gain.lower <= 0:
        yield _number_of_updates(comparison, is_behind=gain.upper < 0)
    else:
        yield from _why_ahead(comparison)


def _why_ahead(comparison: Comparison) -> Iterator[str]:
    small, accumulated = (comparison.estimate(arm, "late_loss").mean for arm in ("small-batch", "accumulated"))
    if small > accumulated:
        updates = [comparison.estimate(arm, "num_updates").mean for arm in ("small-batch", "accumulated")]
        lr = comparison.config.optimizer.arguments.get("lr")
        yield (
            f"Why: at this learning rate ({lr}) the small batch does not settle: its training loss is {small:.3g} in "
            f"the second half of the run, although it makes {updates[0]:.0f} updates, and {accumulated:.3g} "
            f"accumulated with {updates[1]:.0f}. Averaging over the window takes noise out of each update; try a "
            "lower rate with the small batch before believing in the window."
        )


def _number_of_updates(comparison: Comparison, *, is_behind: bool) -> str:
    small, accumulated = (comparison.estimate(arm, "num_updates").mean for arm in ("small-batch", "accumulated"))
    text = (
        f"{'Why: in' if is_behind else 'In'} the same epochs and at the same learning rate, accumulating makes "
        f"{accumulated:.0f} updates instead of {small:.0f}"
    )
    if is_behind:
        text += ", so after the same samples it has come less far"
    if not comparison.has("scaled-lr"):
        return text + "."
    factor = lr_factor(comparison.config)
    scaled = comparison.estimate("scaled-lr", "accuracy")
    gain = comparison.paired("scaled-lr", "small-batch", "accuracy")
    return (
        f"{text}; with {factor:g} × the learning rate it reaches {percent(scaled)}, {points(gain)} points from the "
        "small batch."
    )


def _clipping(comparison: Comparison) -> Iterator[str]:
    if comparison.has("accumulated", "clipped"):
        plain, clipped = "accumulated", "clipped"
    elif comparison.has("accumulated", "unclipped"):
        plain, clipped = "unclipped", "accumulated"
    else:
        return
    change = comparison.paired(clipped, plain, "loss")
    if not change.num_seeds:
        return
    effect = "helps" if change.upper < 0 else "hurts" if change.lower > 0 else "makes no clear difference"
    late = [comparison.estimate(arm, "late_loss").mean for arm in (plain, clipped)]
    moves = [comparison.estimate(arm, "unsteadiness").mean for arm in (plain, clipped)]
    yield (
        f"Clipping the window's gradient {effect}: validation loss {_signed(change)}; in the second half of the run "
        f"the training loss is {late[0]:.3g} without and {late[1]:.3g} with, and moves by {moves[0]:.3g} and "
        f"{moves[1]:.3g} from one update to the next."
    )


def _broken(comparison: Comparison) -> Iterator[str]:
    if not comparison.has("accumulated"):
        return
    for arm in comparison.arms:
        if arm.fault is None or not comparison.of(arm.name):
            continue
        change = comparison.paired(arm.name, "accumulated", "loss")
        if change.num_seeds < len(comparison.of(arm.name)):
            yield f"{arm.name} ({arm.description}): the loss stopped being a number."
        else:
            yield (f"{arm.name} ({arm.description}): validation loss {_signed(change)} against accumulated.")


def _hidden_recall(comparison: Comparison) -> Iterator[str]:
    misled = {arm.name: [run for run in comparison.of(arm.name) if _hides_recall(run)] for arm in comparison.arms}
    misled = {name: runs for name, runs in misled.items() if runs}
    if not misled:
        return
    worst = min((run for runs in misled.values() for run in runs), key=lambda run: run.number("lowest_recall"))
    metrics = worst.validation.metrics if worst.validation is not None else None
    assert isinstance(metrics, ClassificationMetrics)
    index = metrics.recall.index(min(metrics.recall))
    support = metrics.support[index]
    counts = ", ".join(f"{name} ({len(runs)} of {len(comparison.of(name))} seeds)" for name, runs in misled.items())
    yield (
        f"Accuracy misleads in {counts}. The worst: {worst.arm}, seed {worst.seed}, has {metrics.accuracy:.1%} "
        f"accuracy and misses {support - metrics.confusion[index][index]} of {support} samples of "
        f"{comparison.data.class_names[index]!r} (recall {metrics.recall[index]:.0%})."
    )


def _hides_recall(run: ArmRun) -> bool:
    metrics = None if run.validation is None else run.validation.metrics
    if not isinstance(metrics, ClassificationMetrics):
        return False
    occurring = [recall for recall, support in zip(metrics.recall, metrics.support, strict=True) if support]
    return metrics.accuracy >= HIGH_ACCURACY and metrics.accuracy - min(occurring) >= HIDDEN_GAP


def percent(value: Estimate) -> str:
    """A share with its interval, such as ``97.2 ± 0.4 %``."""
    return f"{value.mean * 100:.1f}{_width(value, 100, '.1f')} %"


def points(value: Estimate) -> str:
    """A difference of shares with its interval, in percentage points, such as ``-1.4 ± 0.3``."""
    return f"{value.mean * 100:+.1f}{_width(value, 100, '.1f')}"


def _signed(value: Estimate) -> str:
    return f"{value.mean:+.4f}{_width(value, 1, '.4f')}"


def _width(value: Estimate, factor: float, form: str) -> str:
    return f" ± {value.half_width * factor:{form}}" if math.isfinite(value.half_width) else ""
