"""Several arms with several seeds, as `gradledger compare` leaves them."""

import json
import re
from statistics import fmean

import pytest
from scipy.stats import t
from synthetic_runs import write_run

from gradledger.errors import UserError
from gradledger.report import page_of, read_runs, render
from gradledger.report.charts import charts_of
from gradledger.report.comparison import compare, half_width

BEST = {"large-batch": (0.95, 0.9, 0.97), "accumulated": (0.95, 0.9, 0.97), "never-zeroed": (0.4, 0.3, 0.5)}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    root = tmp_path_factory.mktemp("compared")
    for arm, scores in BEST.items():
        for seed, best in enumerate(scores):
            fault = "never-zeroed" if arm == "never-zeroed" else ""
            write_run(root / arm / f"seed-{seed}", num_epochs=3, seed=seed, best=best, fault=fault)
    record = {
        "version": 1,
        "statements": ["Nothing but rounding.", "The <b>founding</b> example does not reproduce."],
        "arms": [{"name": name} for name in ("accumulated", "large-batch", "never-zeroed")],
        "differences": [{"seed": 0, "dtype": "float32", "after": 36, "largest": 2.4e-7, "relative": 1.5e-7}],
        "in_float64": [{"seed": 0, "dtype": "float64", "after": 1, "largest": 1.4e-17, "relative": 7.5e-18}],
    }
    (root / "compare.json").write_text(json.dumps(record))
    return root


def test_a_row_is_an_arm_in_the_order_of_the_comparison(compared):
    page = page_of([compared])
    assert page.comparison.groups == ("accumulated", "large-batch", "never-zeroed")
    assert [row[0] for row in page.comparison.table.rows] == list(page.comparison.groups)
    assert page.verdict.sentences[1:] == ("Nothing but rounding.", "The <b>founding</b> example does not reproduce.")
    assert [run.name for run in page.runs] == ["accumulated/seed-0", "large-batch/seed-0", "never-zeroed/seed-0"]


def test_means_carry_their_interval_over_seeds(compared):
    runs = read_runs([compared / "accumulated"])
    scores = [run.evaluations[-1]["accuracy"] for run in runs]
    table = page_of([compared]).comparison.table
    cell = table.rows[0][table.columns.index("accuracy")]
    assert cell == f"{100 * fmean(scores):.1f} % ± {100 * half_width(scores):.1f} %"
    low, high = t.interval(0.95, 2, loc=fmean(scores), scale=(half_width(scores) / t.ppf(0.975, 2)))
    assert half_width(scores) == pytest.approx((high - low) / 2)


def test_what_was_measured_between_arms_is_shown(compared):
    rows = page_of([compared]).comparison.differences.rows
    assert rows == (("0", "float32", "36", "2.4e-07", "1.5e-07"), ("0", "float64", "1", "1.4e-17", "7.5e-18"))


def test_a_finding_of_every_seed_is_told_once(compared):
    stale = [finding for finding in page_of([compared]).findings if finding.rule == "stale-gradient"]
    assert [(finding.run, finding.runs) for finding in stale] == [("never-zeroed/seed-0", 3)]


def test_of_many_runs_the_charts_keep_one_bold_line_each(compared):
    charts = {chart.key: chart for chart in charts_of(page_runs(compared))}
    assert {trace.role for trace in charts["loss"].traces} == {"trend", "points"}
    assert [trace.group for trace in charts["scores"].traces] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert "seconds" not in charts


def page_runs(root):
    runs = read_runs([root])
    return sorted(runs, key=lambda run: (compare(runs).groups.index(run.group), run.name))


def test_a_value_that_dwarfs_the_others_asks_for_a_logarithmic_axis(runs_root, tmp_path):
    calm = charts_of(read_runs([runs_root / "digits"]))[0]
    assert not calm.starts_log
    run = write_run(tmp_path / "run", num_epochs=1)
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(re.sub(r'"loss": [\d.]+', '"loss": 900.0', text, count=1))
    assert charts_of(read_runs([run]))[0].starts_log


def test_statements_are_escaped(compared):
    assert "<b>founding</b>" not in render(page_of([compared]), "html")
    assert r"\<b\>founding\</b\>" in render(page_of([compared]), "markdown")


def test_a_damaged_comparison_is_refused(compared, tmp_path):
    write_run(tmp_path / "arm" / "seed-0", num_epochs=1)
    (tmp_path / "compare.json").write_text("{")
    with pytest.raises(UserError, match=r"compare\.json is not JSON"):
        page_of([tmp_path])
