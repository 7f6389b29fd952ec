"""What the charts hold."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_runs import write_run

from gradledger.ledger import Backward
from gradledger.report import read_run
from gradledger.report.charts import charts_of, ends_of, moving_average
from gradledger.report.thinning import kept_indices
from gradledger.report.wording import duration, number, percent, size


@pytest.fixture(scope="module")
def digits(runs_root):
    return read_run(runs_root / "digits")


def trace(chart, name):
    (found,) = [trace for trace in chart.traces if trace.name == name]
    return found


def test_the_loss_chart_has_every_update_micro_batch_and_validation(digits):
    loss = charts_of([digits])[0]
    assert len(trace(loss, "per update").y) == 120
    assert list(trace(loss, "per update").x) == list(range(1, 121))
    losses = [entry.loss for entry in digits.ledger if isinstance(entry, Backward)]
    assert sorted(trace(loss, "micro-batches").y) == sorted(losses)
    assert len(trace(loss, "validation").y) == 10


def test_micro_batches_stand_at_the_update_that_they_became(digits):
    dots = trace(charts_of([digits])[0], "micro-batches")
    update = digits.updates[16]
    behind = [y for x, y in zip(dots.x, dots.y, strict=True) if x == update["update"]]
    assert len(behind) == update["num_micro_batches"]
    assert sum(behind) / len(behind) == pytest.approx(update["loss"])


def test_the_norm_after_clipping_is_cut_at_the_limit(digits):
    (chart,) = [chart for chart in charts_of([digits]) if chart.key == "grad_norm"]
    before, after = trace(chart, "before clipping"), trace(chart, "after clipping")
    assert list(after.y) == [min(value, 1.0) for value in before.y]
    over = sum(value > 1.0 for value in before.y)
    assert 0 < over < 120
    assert f"{over} of 120 updates were longer" in chart.reading


def test_time_per_update_is_the_difference_of_the_clock(digits):
    (chart,) = [chart for chart in charts_of([digits]) if chart.key == "seconds"]
    clock = digits.column("seconds")
    assert chart.traces[0].y[0] is None
    assert chart.traces[0].y[5] == pytest.approx(clock[5] - clock[4])


def test_many_micro_batches_become_a_band(tmp_path):
    run = read_run(write_run(tmp_path / "run", num_epochs=4, updates_per_epoch=300))
    band = trace(charts_of([run])[0], "micro-batches")
    assert band.role == "band"
    losses = [entry.loss for entry in run.ledger if isinstance(entry, Backward)]
    assert (max(band.y), min(band.low)) == (max(losses), min(losses))
    assert all(low <= high for low, high in zip(band.low, band.y, strict=True))


def test_a_longer_run_is_thinned_with_its_spikes(tmp_path):
    run = read_run(write_run(tmp_path / "run", num_epochs=2, updates_per_epoch=6000, steps=1))
    line = trace(charts_of([run])[0], "per update")
    assert 9_000 < len(line.y) <= 10_000
    assert max(line.y) == max(run.column("loss"))


def test_several_runs_are_overlaid_by_name(runs_root):
    runs = [read_run(runs_root / "compared" / name) for name in ("small", "large")]
    loss = charts_of(runs)[0]
    assert {trace.run for trace in loss.traces} == {0, 1}
    assert len(trace(loss, "small: per update").y) == 4 * 48


@settings(deadline=None)
@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(4, 40))
def test_thinning_keeps_ends_and_extremes(values, max_points):
    kept = kept_indices(values, max_points)
    assert kept == sorted(set(kept))
    assert len(kept) <= max_points
    assert {0, len(values) - 1} <= set(kept)
    known = [value for value in values if value is not None]
    drawn = [values[i] for i in kept if values[i] is not None]
    if known:
        assert (min(drawn), max(drawn)) == (min(known), max(known))


@settings(deadline=None)
@given(st.lists(st.none() | st.floats(-100, 100), max_size=40), st.integers(1, 15))
def test_the_moving_average_is_the_mean_of_the_neighbours(values, width):
    for i, mean in enumerate(moving_average(values, width)):
        near = [value for value in values[max(0, i - width // 2) : i + width // 2 + 1] if value is not None]
        assert mean == (pytest.approx(sum(near) / len(near), abs=1e-9) if near else None)


def test_ends_are_medians_so_that_one_spike_does_not_count():
    assert ends_of([9.0] * 9 + [1.0] + [2.0] * 90 + [70.0]) == (9.0, 2.0)
    assert ends_of([None, math.nan]) == (None, None)


def test_words_for_numbers():
    assert [number(value) for value in (0.0, 0.5, 12345.6, 1e-7, math.inf)] == ["0", "0.500", "12,346", "1.00e-07", "–"]
    assert [percent(value) for value in (0.978, None)] == ["97.8 %", "–"]
    assert [duration(value) for value in (5e-5, 119.0, 120.0)] == ["50 µs", "119.0 s", "2 min 0 s"]
    assert [size(value) for value in (12, 187_654_321, None)] == ["12 B", "179.0 MiB", "–"]
