"""Has a noisy series fallen, risen, or stood still? Robust tests in plain Python.

All of them measure noise from the series itself, by the differences of neighbours, so that no threshold depends on
what a loss is counted in; medians keep single spikes from deciding anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from statistics import fmean, median, variance

_MAD_TO_DEVIATION = 1.4826  # of a normal distribution
_MEDIAN_INFLATION = 1.2533  # how much wider a median scatters than a mean, of a normal distribution

MIN_UPDATES = 40
"""With fewer updates nothing is said."""

SMALLEST_FALL = 0.05
"""A loss that fell by less than this share of its first level has not fallen."""

GREATEST_RISE = 0.25
"""A loss that gives back more than this share of what it had gained is unstable."""

LARGEST_JITTER_RATIO = 4.0
"""Leaps whose variance is more than this many times what the micro-batches explain are the weights' own."""

LARGEST_JITTER_SHARE = 0.1
"""Leaps of the weights' own are unstable where they exceed this share of the first loss."""

_SURE = 3.5  # standard errors, for one comparison
_SURE_OF_MANY = 6.0  # standard errors, for the worst of many comparisons


@dataclass(frozen=True, slots=True)
class Change:
    """From one level to another.

    Args:
        before: The first level, a median.
        after: The second level, a median.
        error: The standard error of the difference.
        at: Where in the series the second level begins.
    """

    before: float
    after: float
    error: float
    at: int

    @property
    def size(self) -> float:
        """How far the series rose."""
        return self.after - self.before


def deviation_of(values: Sequence[float]) -> float:
    """The standard deviation of the noise about a slowly moving level, from the differences of neighbours.

    Example:
        >>> deviation_of([1.0, 2.0, 3.0, 4.0])  # a slope is no noise
        0.0
    """
    differences = [b - a for a, b in pairwise(values)]
    if not differences:
        return 0.0
    middle = median(differences)
    return _MAD_TO_DEVIATION * median(abs(d - middle) for d in differences) / math.sqrt(2)


def change_between(values: Sequence[float], first: slice, second: slice) -> Change:
    """The change of the median from one stretch of a series to another."""
    before, after = values[first], values[second]
    variance = sum((_MEDIAN_INFLATION * deviation_of(part)) ** 2 / len(part) for part in (before, after))
    return Change(median(before), median(after), math.sqrt(variance), second.start or 0)


def standstill(values: Sequence[float]) -> Change | None:
    """The change from the first to the last quarter where the series certainly did not fall; None otherwise.

    It has fallen where the last quarter lies surely below the first few values, however few they are: many runs fall
    in their first updates. It stands still where, besides, no fall of 5 % is compatible with the noise. The first
    value is that of the untrained model, so a leap right after it does not count as a level to have fallen from.

    Example:
        >>> wobble = [0.01 * (i * 7 % 5) for i in range(100)]
        >>> standstill([2.0 + w for w in wobble]) is not None
        True
        >>> standstill([2.0 * 0.97**i + w for i, w in enumerate(wobble)]) is None
        True
    """
    count = len(values)
    if count < MIN_UPDATES:
        return None
    tail = slice(count - count // 4, count)
    level, noise = median(values[tail]), _MEDIAN_INFLATION * deviation_of(values[tail])
    tail_error = noise / math.sqrt(count // 4)
    longest = 1 if _early_level(values) > values[0] + _SURE_OF_MANY * noise else count // 4
    length = 1
    while length <= longest:
        if median(values[:length]) - level > _SURE * math.hypot(tail_error, noise / math.sqrt(length)):
            return None
        length *= 2
    first, error = median(values[:longest]), math.sqrt(2) * tail_error
    stands = first - level + 2 * error < SMALLEST_FALL * abs(first) or level > first + 2 * noise
    return Change(first, level, error, tail.start) if stands else None


def lasting_rise(values: Sequence[float]) -> Change | None:
    """The first lasting rise above the lowest level before it, where it is sure and great; None otherwise.

    Levels are medians of stretches of the series, of a twentieth to a quarter of its length. A rise counts where it
    exceeds six standard errors and a quarter of what the series had gained until then (or of the level itself where
    that is more). The untrained model's loss is a level too: the first updates must not double it.

    Example:
        >>> falling = [2.0 * 0.95**i for i in range(60)]
        >>> lasting_rise(falling) is None
        True
        >>> lasting_rise(falling + [1.5] * 20).at
        60
    """
    count = len(values)
    if count < MIN_UPDATES:
        return None
    noise = deviation_of(values[count - count // 4 :])
    early = _early_level(values)
    if early > 2 * abs(values[0]) + _SURE_OF_MANY * noise:
        return Change(values[0], early, noise, 1)
    for num_stretches in (20, 8, 4):
        if count >= 8 * num_stretches or num_stretches == 4:
            rise = _first_rise(values, num_stretches)
            if rise is not None:
                return rise
    return None


def _first_rise(values: Sequence[float], num_stretches: int) -> Change | None:
    bounds = [i * len(values) // num_stretches for i in range(num_stretches + 1)]
    stretches = [slice(a, b) for a, b in pairwise(bounds)]
    levels = [median(values[stretch]) for stretch in stretches]
    start = max(median(values[: max(3, len(values) // 50)]), levels[0])
    for i in range(1, num_stretches):
        lowest = min(range(i), key=levels.__getitem__)
        rise = change_between(values, stretches[lowest], stretches[i])
        is_great = rise.size > GREATEST_RISE * max(start - rise.before, abs(rise.before))
        if is_great and rise.size > _SURE_OF_MANY * rise.error:
            return rise
    return None


def _early_level(values: Sequence[float]) -> float:
    """The highest level of the first few updates after the first."""
    return max(median(values[start : max(start + 3, 2 * start)]) for start in (1, 4, 8))


@dataclass(frozen=True, slots=True)
class Jitter:
    """How much a loss leaps from update to update, beside what unlike micro-batches explain.

    Args:
        ratio: Variance of the leaps over the variance that the micro-batches within windows explain: about 1 where
            only the data differ, more where the weights leap.
        deviation: The standard deviation that is left unexplained.
    """

    ratio: float
    deviation: float


def jitter(windows: Sequence[Sequence[float]]) -> Jitter | None:
    """Compare leaps between windows with the spread of the micro-batches within them, over the last three quarters.

    Micro-batches of one window meet the same weights, so their spread is the data's alone. Windows of fewer than four
    micro-batches are taken together. Leaps are second differences, in which a slope cancels.

    Args:
        windows: The losses of each window's micro-batches, in order.

    Example:
        >>> calm = [[1.0, 1.2, 0.8, 1.1], [0.9, 1.1, 1.0, 1.2], [1.1, 0.8, 1.0, 1.1]] * 20
        >>> jitter(calm).ratio < 2 < jitter([[x + 3 * (i % 2) for x in w] for i, w in enumerate(calm)]).ratio
        True
    """
    size = max(map(len, windows), default=0)
    if not size or len(windows) < MIN_UPDATES:
        return None
    together = -(-4 // size)
    groups = [list(chain.from_iterable(windows[i : i + together])) for i in range(0, len(windows), together)]
    groups = [group for group in groups if len(group) >= 4][len(windows) // together // 4 :]
    if len(groups) < MIN_UPDATES // 2:
        return None
    means = [fmean(group) for group in groups]
    explained = [variance(group, mean) / len(group) for group, mean in zip(groups, means, strict=True)]
    inner = range(1, len(groups) - 1)
    differences = [means[i - 1] - 2 * means[i] + means[i + 1] for i in inner]
    leaps = fmean(difference * difference for difference in differences) / 6
    expected = fmean((explained[i - 1] + 4 * explained[i] + explained[i + 1]) / 6 for i in inner)
    ratio = leaps / expected if expected else math.inf if leaps else 1.0
    return Jitter(ratio, math.sqrt(max(0.0, leaps - expected)))


def upward_trend(values: Sequence[float]) -> float:
    """The probability of so much upward trend in a series without any: the Mann-Kendall test, one-sided.

    Source: Mann, Nonparametric tests against trend, Econometrica 13 (1945); Kendall, Rank Correlation Methods (1948).

    Example:
        >>> upward_trend([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) < 0.01 < 0.99 < upward_trend([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
        True
    """
    count = len(values)
    score = sum((b > a) - (b < a) for i, a in enumerate(values) for b in values[i + 1 :])
    ties = [list(values).count(value) for value in set(values)]
    variance = (count * (count - 1) * (2 * count + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18
    if variance <= 0:
        return 1.0
    z = (score - (score > 0) + (score < 0)) / math.sqrt(variance)
    return 0.5 * math.erfc(z / math.sqrt(2))
