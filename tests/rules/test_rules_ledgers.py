"""Each rule on ledgers written by hand: what it must find, and the near misses that it must leave alone."""

from dataclasses import replace
from itertools import count

import pytest

from gradledger.ledger import (
    Adjust,
    Average,
    Backward,
    Clip,
    EpochEnd,
    Location,
    Metric,
    ScalerUpdate,
    Schedule,
    Step,
    Unscale,
    Zero,
)
from gradledger.rules import judge

STEP, ZERO, EPOCH = Step(), Zero(), EpochEnd()
MEAN = Backward(reduction="mean", scale=1.0, factors=(), weight=8.0)
QUARTER = replace(MEAN, scale=0.25, factors=(0.25,))
HALF = replace(MEAN, scale=0.5, factors=(0.5,))
SUM = replace(MEAN, reduction="sum")
UNKNOWN = Backward()
SCALED = replace(MEAN, scaled_by_scaler=True)


def book(*entries):
    """Entries with running counters and a line of their own for each kind."""
    micro_batches, updates, calls = count(1), 0, count(1)
    number = 0
    written = []
    for entry in entries:
        if isinstance(entry, Backward):
            number = next(micro_batches)
            entry = replace(entry, call=entry.call or next(calls))
        place = entry.location or Location("train.py", 1 + sorted(KINDS).index(type(entry).__name__))
        written.append(replace(entry, micro_batch=number, update=updates, location=place))
        updates += isinstance(entry, Step) and not entry.skipped
    return written


KINDS = ("Adjust", "Average", "Backward", "Clip", "EpochEnd", "Metric", "ScalerUpdate", "Schedule", "Step", "Unscale", "Zero")  # noqa: E501  # fmt: skip


def slugs(*entries, complete=True):
    return [finding.rule for finding in judge(book(*entries), complete=complete)]


WINDOW = (QUARTER, QUARTER, QUARTER, QUARTER, STEP, ZERO)

FOUND = {
    "written by hand and zeroed": ([Adjust(), ZERO, QUARTER, QUARTER, STEP, ZERO, *WINDOW], ["uneven-window-scale"]),
    "stale": ([HALF, HALF, STEP, HALF, HALF, STEP], ["stale-gradient"]),
    "stale over a partial zero": ([MEAN, STEP, Zero(partial=True), MEAN, STEP], ["stale-gradient"]),
    "zeroed before the step": ([MEAN, ZERO, STEP, MEAN, ZERO, STEP], ["discarded-gradient"]),
    "zeroed in the window": ([HALF, ZERO, HALF, STEP, ZERO], ["discarded-gradient"]),
    "tail at the end": ([*WINDOW, QUARTER], ["dropped-tail"]),
    "tail zeroed": ([*WINDOW, QUARTER, EPOCH, ZERO, *WINDOW], ["dropped-tail"]),
    "never a step": ([QUARTER, QUARTER], ["dropped-tail"]),
    "tail leaks": ([*WINDOW, QUARTER, EPOCH, *WINDOW], ["leaked-tail"]),
    "zeroed twice": ([MEAN, STEP, ZERO, Zero(location=Location("train.py", 99))], ["redundant-zero"]),
    "not divided": ([MEAN, MEAN, STEP, ZERO], ["unnormalized-loss"]),
    "divided too often": ([replace(MEAN, scale=1 / 16, factors=(0.25, 0.25))] * 4 + [STEP], ["double-normalized-loss"]),
    "sums divided by the window's units and again": (
        [replace(SUM, scale=1 / 128, factors=(0.25, 1 / 32)), *[replace(SUM, factors=(0.25, 1 / 32))] * 3, STEP],
        ["double-normalized-loss"],
    ),
    "divided again by hand": ([*WINDOW[:4], Adjust(factor=0.25), STEP], ["double-normalized-loss"]),
    "divided by a trainer that never accumulates": (
        [replace(QUARTER, trainer_steps=4), STEP, ZERO] * 3,
        ["uneven-window-scale"],
    ),
    "short tail": ([*WINDOW, QUARTER, QUARTER, STEP, ZERO], ["uneven-window-scale"]),
    "another divisor": ([QUARTER, QUARTER, STEP, ZERO], ["uneven-window-scale"]),
    "unlike weights": ([HALF, replace(HALF, weight=2.0), STEP], ["mean-of-means"]),
    "scaled log": ([*WINDOW, Metric(name="loss", scale=0.25)], ["loss-log-scale"]),
    "step in backward": ([QUARTER, Step(in_backward=True), ZERO], ["optimizer-in-backward"]),
    "clip inside": ([HALF, Clip(), HALF, Clip(), STEP, ZERO], ["clip-inside-window"]),
    "clip scaled": ([SCALED, Clip(), Step(scaler=True), ZERO], ["clip-scaled-gradient"]),
    "clip late": ([MEAN, STEP, Clip(), ZERO, MEAN, STEP, Clip(), ZERO], ["clip-after-step"]),
    "clip early": ([ZERO, Clip(), MEAN, STEP], ["clip-after-step"]),
    "scaler update inside": (
        [replace(SCALED, scale=0.5, factors=(0.5,)), ScalerUpdate()] * 2 + [Step(scaler=True), ZERO],
        ["scaler-update-inside-window"],
    ),
    "direct step": ([SCALED, Step(scaler=False), ZERO], ["step-without-scaler"]),
    "bfloat16": (
        [replace(MEAN, scale=0.1, factors=(0.1,), grad_dtype="bfloat16")] * 10 + [STEP],
        ["low-precision-accumulation"],
    ),
    "not finite": ([replace(MEAN, finite=False), STEP, ZERO], ["non-finite-gradient"]),
    "schedule inside": ([HALF, Schedule(), HALF, STEP, Schedule(), ZERO], ["scheduler-per-micro-batch"]),
    "schedule first": ([MEAN, Schedule(), STEP, ZERO], ["scheduler-before-step"]),
    "schedule before all": ([Schedule(), MEAN, STEP, ZERO, Schedule(), MEAN, STEP], ["scheduler-before-step"]),
    "horizon": ([HALF, HALF, STEP, Schedule(horizon=6), ZERO] * 3, ["scheduler-horizon"]),
    "average inside": ([HALF, Average(), HALF, STEP, Average(), ZERO], ["average-per-micro-batch"]),
    "reduced each time": ([replace(HALF, synced=True)] * 2 + [STEP, ZERO], ["needless-all-reduce"]),
    "never reduced": ([replace(HALF, synced=False)] * 2 + [STEP, ZERO], ["unsynced-step"]),
    "batch norm": ([replace(HALF, batch_norm=True)] * 2 + [STEP, ZERO], ["batch-norm-in-window"]),
    "contrastive": ([replace(HALF, coupled=True)] * 2 + [STEP, ZERO], ["contrastive-in-window"]),
    "retained": ([replace(MEAN, retained=True), STEP, ZERO] * 2, ["retained-graph"]),
    "waits": ([*WINDOW, Metric(host_sync=True)], ["host-sync-per-micro-batch"]),
    "would fit": ([HALF, HALF, Step(memory_share=0.1), ZERO], ["needless-accumulation"]),
    "unowned": ([replace(MEAN, num_unowned=2), STEP, ZERO] * 2, ["unowned-gradient"]),
    "missing": ([MEAN, Step(num_missing=1), ZERO] * 3, ["missing-gradient"]),
}

LEFT_ALONE = {
    "every batch": [MEAN, STEP, ZERO] * 3,
    "window": [*WINDOW, *WINDOW],
    "zeroed twice by one line": [MEAN, STEP, ZERO, ZERO],
    "skipped step": [SCALED, Step(skipped=True, scaler=True), SCALED, Step(scaler=True), ZERO],
    "closure": [Zero(void=True), MEAN, Zero(void=True), MEAN, STEP],
    "written by hand": [Adjust(), STEP, Zero(void=True), Adjust(), STEP],
    "surgery": [MEAN, ZERO, MEAN, ZERO, Adjust(), STEP, ZERO],
    "gradient kept as momentum": [MEAN, STEP, Adjust(factor=0.9), MEAN, STEP],
    "a guard that gives up a window": [HALF, ZERO, HALF, HALF, STEP, ZERO, *[HALF, HALF, STEP, ZERO] * 3],
    "a non-finite loss given up": [replace(MEAN, finite=False), ZERO, MEAN, STEP, ZERO],
    "carry-over of exactly K": [*WINDOW, QUARTER, QUARTER, EPOCH, QUARTER, QUARTER, STEP, ZERO],
    "an open window that was saved goes on": [ZERO, Adjust(), QUARTER, QUARTER, STEP, ZERO, *WINDOW],
    "sums": [SUM, SUM, STEP, ZERO],
    "sums divided by the window's units": [*[replace(SUM, factors=(1 / 32,))] * 4, STEP, ZERO],
    "sums of unlike units multiplied back": [
        replace(SUM, factors=(0.25, 1 / 14, 4.0)),
        replace(SUM, factors=(0.25, 1 / 14, 4.0), weight=2.0),
        *[replace(SUM, factors=(0.25, 1 / 14, 4.0), weight=2.0)] * 2,
        STEP,
        ZERO,
    ],
    "sums divided by hand": [SUM, SUM, Adjust(factor=1 / 16), STEP, ZERO],
    "means divided by hand": [MEAN, MEAN, Adjust(factor=0.5), STEP, ZERO],
    "divided by an unknown number": [MEAN, MEAN, Adjust(), STEP, ZERO],
    "unknown scale": [UNKNOWN, UNKNOWN, STEP, ZERO],
    "shares of the weight": [
        replace(HALF, scale=0.8, factors=(0.8,)),
        replace(HALF, scale=0.2, factors=(0.2,), weight=2.0),
        STEP,
    ],
    "weights within a percent": [HALF, replace(HALF, weight=8.05), STEP],
    "a factor of the loss's own": [HALF, STEP, ZERO] * 2,
    "multiplied back for a trainer": [
        replace(MEAN, factors=(0.25, 4.0), trainer_steps=4),
        STEP,
        ZERO,
    ],
    "half a loss in windows of two": [replace(HALF, scale=0.25, factors=(0.5, 0.5))] * 2 + [STEP],
    "schedule per epoch in a long window": [QUARTER, QUARTER, Schedule(), QUARTER, QUARTER, STEP, ZERO, *WINDOW],
    "horizon of updates": [HALF, HALF, STEP, Schedule(horizon=3), ZERO] * 3,
    "horizon of another kind": [HALF, HALF, STEP, Schedule(horizon=100), ZERO] * 3,
    "in backward without windows": [MEAN, Step(in_backward=True), ZERO] * 2,
    "reduced once": [replace(HALF, synced=False), replace(HALF, synced=True), STEP, ZERO],
    "few bfloat16": [replace(HALF, grad_dtype="bfloat16")] * 2 + [STEP],
    "retained and used": [
        replace(MEAN, retained=True, call=1),
        replace(MEAN, reuses=1, location=Location("t.py", 77)),
        STEP,
        ZERO,
    ],
    "unscaled": [SCALED, Unscale(), Clip(), Step(scaler=True), ScalerUpdate(), ZERO] * 2,
    "missing at first": [MEAN, Step(num_missing=1), ZERO, *[MEAN, Step(num_missing=0), ZERO] * 3],
}


@pytest.mark.parametrize("case", FOUND)
def test_found(case):
    entries, wanted = FOUND[case]
    assert slugs(*entries) == wanted


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone(case):
    assert slugs(*LEFT_ALONE[case]) == []


def test_what_is_open_in_a_program_that_was_stopped_is_not_dropped():
    assert slugs(*WINDOW, QUARTER, complete=False) == []


def account(entry, name, line, call=None):
    more = {"call": call} if call else {}
    return replace(entry, account=name, location=Location("gan.py", line), **more)


def test_gradients_of_another_optimizer():
    """The generator's loss fills the discriminator too; one call has one number in both accounts."""
    leaked = [
        account(MEAN, "g", 1, 1), account(MEAN, "d", 1, 1), account(STEP, "g", 2), account(ZERO, "g", 3),
        account(MEAN, "d", 4, 2), account(STEP, "d", 5), account(ZERO, "d", 6),
    ]  # fmt: skip
    found = judge(leaked)
    assert [(finding.rule, finding.account, finding.location.line) for finding in found] == [
        ("mixed-optimizer-gradients", "d", 5)
    ]
    clean = [*leaked[:4], account(ZERO, "d", 9), *leaked[4:]]
    assert judge(clean) == []


def test_two_optimizers_that_share_a_loss():
    both = [account(MEAN, "a", 1, 1), account(MEAN, "b", 1, 1), account(STEP, "a", 2), account(STEP, "b", 3)]
    zeros = [account(ZERO, "a", 4), account(ZERO, "b", 5)]
    assert judge([*both, *zeros, *both, *zeros]) == []


THIRD = replace(MEAN, scale=1 / 3, factors=(1 / 3,))
SIXTEENTH = replace(SUM, scale=1 / 16, factors=(1 / 16,))
OVER_RANKS = {
    "the same": ([*WINDOW], [*WINDOW], []),
    "fewer, each by its own number": ([*WINDOW], [HALF, HALF, STEP, ZERO], ["uneven-ranks"]),
    "fewer, by the number of all": ([*[THIRD] * 4, STEP, ZERO], [*[THIRD] * 2, STEP, ZERO], []),
    "a tail on both": ([*WINDOW, QUARTER, QUARTER, STEP], [*WINDOW, QUARTER, QUARTER, STEP], ["uneven-window-scale"]),
    "lighter": ([HALF, HALF, STEP], [*[replace(HALF, weight=4.0)] * 2, STEP], ["uneven-ranks"]),
    "lighter by less than a percent": ([HALF, HALF, STEP], [*[replace(HALF, weight=7.95)] * 2, STEP], []),
    "lighter, with a sum's scale": ([*[SIXTEENTH] * 2, STEP], [*[replace(SIXTEENTH, weight=2.0)] * 2, STEP], []),
    "sums by unlike numbers": (
        [*[SIXTEENTH] * 2, STEP],
        [*[replace(SIXTEENTH, scale=0.25, factors=(0.25,), weight=2.0)] * 2, STEP],
        ["uneven-ranks"],
    ),
    "unlike units": ([HALF, HALF, STEP], [*[replace(HALF, weight=4.0, unit="tokens")] * 2, STEP], []),
    "without windows": ([MEAN, STEP, ZERO], [replace(MEAN, weight=4.0), STEP, ZERO], []),
    "unknown": ([HALF, HALF, STEP], [UNKNOWN, UNKNOWN, STEP], []),
}


@pytest.mark.parametrize("case", OVER_RANKS)
def test_ranks_are_judged_together(case):
    first, second, wanted = OVER_RANKS[case]
    entries = [*book(*first), *(replace(entry, rank=1) for entry in book(*second))]
    findings = judge(entries)
    assert [finding.rule for finding in findings] == wanted
    assert all(finding.count == 1 for finding in findings)
    assert not any("Only on rank" in finding.message for finding in findings)


def test_a_rank_that_is_uneven_alone_is_named():
    entries = [*book(*WINDOW, *WINDOW), *(replace(e, rank=1) for e in book(*WINDOW, QUARTER, QUARTER, STEP))]
    (finding,) = judge(entries)
    assert finding.rule == "uneven-window-scale"
    assert finding.message.endswith(" Only on rank 1 of 2.")
