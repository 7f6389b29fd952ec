"""The trend tests against made-up series with known answers, and their error rates under pure noise."""

import math
import random

import pytest
from scipy.stats import kendalltau

from gradledger.rules._trends import deviation_of, jitter, lasting_rise, standstill, upward_trend


def noisy(levels, deviation, seed=0):
    rng = random.Random(seed)
    return [level + rng.gauss(0, deviation) for level in levels]


def test_the_deviation_is_that_of_the_noise_not_of_the_slope():
    values = noisy([i * 0.5 for i in range(2000)], 2.0)
    assert deviation_of(values) == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("seed", range(20))
def test_flat_noise_stands_still_and_neither_rises_nor_leaps(seed):
    values = noisy([2.3] * 200, 0.05, seed)
    assert standstill(values) is not None
    assert lasting_rise(values) is None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("length", [1, 5, 50, 150])
def test_a_fall_however_early_or_late_is_no_standstill(seed, length):
    assert standstill(noisy([2.3] * length + [1.0] * (200 - length), 0.05, seed)) is None


def test_a_fall_that_noise_may_hide_is_not_called_a_standstill():
    assert standstill(noisy([2.3 - 0.002 * i for i in range(100)], 1.0)) is None


def test_few_updates_say_nothing():
    assert standstill([2.3] * 39) is None
    assert lasting_rise([1.0] * 20 + [9.0] * 19) is None


def test_an_early_leap_is_no_level_to_fall_from():
    values = noisy([2.3, 60.0, 40.0, 9.0, 3.0] + [2.3] * 195, 0.03)
    assert standstill(values) is not None
    assert lasting_rise(values).at == 1


@pytest.mark.parametrize("seed", range(20))
def test_single_spikes_are_no_rise(seed):
    values = noisy([2.0 * 0.98**i + 0.1 for i in range(300)], 0.02, seed)
    for position in (100, 180, 260):
        values[position] += 5.0
    assert lasting_rise(values) is None


def test_a_lasting_rise_is_found_where_it_is():
    values = noisy([2.0 * 0.97**i + 0.1 for i in range(200)] + [1.5] * 50, 0.05)
    rise = lasting_rise(values)
    assert 185 <= rise.at <= 215
    assert rise.after == pytest.approx(1.5, abs=0.1)


def micro_batches(levels, deviation, size=4, seed=0):
    rng = random.Random(seed)
    return [[level + rng.gauss(0, deviation) for _ in range(size)] for level in levels]


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_noise_of_the_data_alone_has_a_ratio_of_about_one(size):
    ratios = [jitter(micro_batches([1.0] * 400, 0.3, size, seed)).ratio for seed in range(10)]
    assert 0.7 < sum(ratios) / 10 < 1.3
    assert max(ratios) < 2


def test_a_slope_is_no_leap():
    assert jitter(micro_batches([9.0 - 0.1 * i for i in range(80)], 0.01)).ratio < 2


def test_leaps_are_told_from_noise_and_measured():
    rng = random.Random(1)
    found = jitter(micro_batches([3.0 + rng.gauss(0, 1.0) for _ in range(400)], 0.3))
    assert found.ratio > 10
    assert found.deviation == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_the_trend_test_agrees_with_scipy(seed):
    rng = random.Random(seed)
    values = [0.05 * i + rng.choice([0.0, 0.5, 1.0]) for i in range(30)]
    expected = kendalltau(range(30), values, alternative="greater", method="asymptotic").pvalue
    assert upward_trend(values) == pytest.approx(expected, rel=0.15)  # this one corrects for continuity


def test_the_trend_test_is_rarely_sure_of_pure_noise():
    alarms = sum(upward_trend(noisy([0.0] * 12, 1.0, seed)) < 0.01 for seed in range(1000))
    assert alarms <= 20
    assert upward_trend([1.0] * 10) == 1.0
    assert not math.isnan(upward_trend([1.0]))
