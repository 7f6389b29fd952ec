"""Every form of the report: what it says, what it escapes, where it is written."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from synthetic_runs import write_run
from tensorboard.backend.event_processing import event_accumulator
from typer.testing import CliRunner

import gradledger.report.writing
from gradledger.cli import app
from gradledger.errors import UserError
from gradledger.report import page_of, print_summary, read_run, read_runs, render, write_report, write_tensorboard
from gradledger.report.tensorboard import scalars_of
from gradledger.report.terminal import sparkline

HOSTILE = "<b>*x*</b>|[y](javascript:z)"


def invoke(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_the_headline_of_an_ordinary_run(runs_root):
    verdict = page_of([runs_root / "digits"]).verdict
    assert verdict.level == "good"
    assert verdict.headline == "In balance and learning."
    assert verdict.sentences[0] == "All 120 updates balance: each is that of its whole effective batch."


@pytest.mark.parametrize(
    ("fault", "rule", "books"),
    [
        ("never-zeroed", "stale-gradient", "1 balanced, 35 with gradient left from earlier ones"),
        (
            "unnormalized",
            "unnormalized-loss",
            "33 off by a factor, 3 with micro-batches that count unlike their weights",
        ),
        ("zeroed-inside", "discarded-gradient", "36 with micro-batches zeroed away"),
    ],
)
def test_the_headline_of_a_broken_run_names_the_rule(runs_root, fault, rule, books):
    page = page_of([runs_root / fault])
    assert page.verdict.level == "error"
    assert rule in page.verdict.headline
    assert books in page.verdict.sentences[0]
    assert rule in {finding.rule for finding in page.findings}


def test_a_run_that_was_stopped_says_so(tmp_path):
    run = write_run(tmp_path / "run", num_epochs=1)
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text.replace('"finished"', '"interrupted"'))
    assert page_of([run]).verdict.headline == "This run was interrupted."


def test_a_run_without_a_ledger_or_without_metrics_still_has_a_page(tmp_path):
    for name in ("ledger.jsonl", "metrics.jsonl"):
        run = write_run(tmp_path / name, num_epochs=1)
        (run / name).unlink()
        assert "<!doctype html>" in render(page_of([run]), "html")


def test_other_tasks_have_a_page(tmp_path):
    for label, scores in {
        "validation R²": {"mae": 0.3, "rmse": 0.5, "r2": 0.8},
        "perplexity": {"perplexity": 7.2},
    }.items():
        run = tmp_path / label
        run.mkdir()
        measured = {"kind": "evaluation", "update": 1, "split": "validation", **scores}
        lines = [{"kind": "update", "update": 1, "loss": 1.0}, measured]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert label in [fact.label for fact in page_of([run]).runs[0].facts]
        assert "<!doctype html>" in render(page_of([run]), "html")


def test_the_effective_batch_is_worked_out(runs_root):
    lines = page_of([runs_root / "digits"]).runs[0].arithmetic
    assert lines[0] == "16 samples × 4 micro-batches × 1 rank = 64 samples an update."
    assert lines[1] == "10 shorter windows (mostly 41 samples), each weighted by what it holds."


def test_the_page_holds_all_it_needs(page_file):
    text = page_file.read_text(encoding="utf-8")
    outside = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]*)""", outside)
    assert links
    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    assert "@import" not in outside
    assert "url(http" not in outside
    assert outside.count("Content-Security-Policy") == 1


def test_what_the_scripts_get_cannot_end_their_element(tmp_path):
    run = write_run(tmp_path / "run", num_epochs=1)
    (tmp_path / "a").mkdir()
    named = tmp_path / "a" / "<script>alert(1)<"
    run.rename(named)
    text = render(page_of([named]), "html")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1]
    assert "<" not in data
    assert json.loads(data)["runs"] == [named.name]


def test_findings_of_another_tool_are_a_page(tmp_path):
    source = tmp_path / "train.py"
    source.write_text("a = 1\nb = 2\noptimizer.step()\nc = 3\n")
    finding = {"rule": "stale-gradient", "code": "GL101", "severity": "error", "message": "twice", "fix": "zero it",
               "location": {"file": str(source), "line": 3}, "count": 7, "first_update": 1}  # fmt: skip
    path = tmp_path / "audit.json"
    path.write_text(json.dumps({"version": 1, "findings": [finding], "model": {"parameters": 12}}))
    page = page_of([path])
    assert page.verdict.headline == "1 error: stale-gradient."
    assert [line.number for line in page.findings[0].source if line.flagged] == [3]
    assert len(page.findings[0].source) == 4
    assert page.details == (("model · parameters", "12"),)
    assert "7 times" in render(page, "html")


def test_a_proof_is_a_page_with_its_cause_and_its_table(tmp_path):
    path = tmp_path / "verify.json"
    cause = {"slug": "coupled-layer", "message": "'1' normalises", "fix": "use GroupNorm", "where": "1", "factor": None}
    rows = [{"name": "0.weight", "error": 2.4, "is_exact": False}, {"name": "0.bias", "error": 4e-8, "is_exact": True}]
    path.write_text(json.dumps({"verdict": "not exact", "parameters": rows, "cause": cause, "notes": ["buffers move"]}))
    page = page_of([path])
    assert (page.verdict.headline, page.verdict.level) == ("Not exact.", "error")
    assert page.verdict.sentences == ("buffers move",)
    assert page.findings[0].rule == "coupled-layer"
    ((name, table),) = page.tables
    assert (name, table.columns, table.rows[1]) == (
        "parameters",
        ("name", "error", "is exact"),
        ("0.bias", "4.00e-08", "yes"),
    )
    for form in ("html", "markdown", "json"):
        assert "coupled-layer" in render(page, form)


def test_rows_without_anything_in_them_are_no_table(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"version": 1, "findings": [], "plan": {"verdict": "16 × 4", "rows": [{}, {}]}}))
    assert page_of([path]).tables == ()
    assert "16 × 4" in render(page_of([path]), "html")


def test_a_plan_is_a_page_with_its_rows(tmp_path):
    path = tmp_path / "plan.json"
    plan = {"verdict": "16 × 4", "rows": [{"micro_batch_size": 16, "seconds": 0.5, "fits": True}], "device": "cpu"}
    path.write_text(json.dumps({"version": 1, "findings": [], "plan": plan}))
    page = page_of([path])
    assert (page.verdict.headline, page.verdict.level) == ("16 × 4.", "good")
    assert page.details == (("device", "cpu"),)
    assert page.tables[0][1].rows == (("16", "0.500", "yes"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("[]", "holds no findings: it must be"), ('{"findings": [3]}', "holds no findings")],
)
def test_a_file_that_holds_no_findings_is_refused(tmp_path, text, message):
    path = tmp_path / "findings.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        page_of([path])


def test_markdown_says_the_same_and_lets_nothing_through(tmp_path):
    run = write_run(tmp_path / "run", num_epochs=1, class_names=[HOSTILE] * 4)
    text = render(page_of([run]), "markdown")
    assert "| effective batch | 64 | 16 × 4 |" in text
    assert r"\<b\>\*x\*\</b\>\|\[y\](javascript:z)" in text
    assert HOSTILE not in text


def test_json_is_for_programs(runs_root):
    report = json.loads(render(page_of([runs_root / "never-zeroed"]), "json"))
    assert report["version"] == 1
    assert report["verdict"]["level"] == "error"
    assert report["findings"][0]["rule"] == "stale-gradient"
    assert report["runs"][0]["num_windows"] == 36


def test_several_runs_are_put_side_by_side(runs_root):
    page = page_of([runs_root / "compared"])
    assert page.comparison.table.columns[:3] == ("run", "effective batch", "updates")
    assert [row[:3] for row in page.comparison.table.rows] == [
        ("accumulated", "64", "48"), ("large", "64", "48"), ("small", "16", "192")
    ]  # fmt: skip
    assert page.verdict.headline.startswith("3 runs: validation accuracy from")


def test_the_terminal_gets_it_in_a_few_lines(runs_root):
    text = io.StringIO()
    print_summary(runs_root / "never-zeroed", file=text, width=100)
    lines = text.getvalue().splitlines()
    assert len(lines) < 15
    assert "1 error: stale-gradient" in lines[0]
    assert any("█" in line and "→" in line for line in lines)


def test_the_sparkline_is_as_high_as_its_values():
    assert sparkline([]) == ""
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert sparkline(list(map(float, range(8)))) == "▁▂▃▄▅▆▇█"
    assert len(sparkline([1.0, 2.0] * 500, width=30)) == 30


def test_tensorboard_files_read_back_as_written(runs_root, tmp_path):
    run = read_run(runs_root / "digits")
    (folder,) = write_tensorboard([run], tmp_path)
    events = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    expected = {}
    for tag, update, value in scalars_of(run):
        expected.setdefault(tag, []).append((update, pytest.approx(value, rel=1e-6)))
    assert sorted(events.Tags()["scalars"]) == sorted(expected)
    assert len(expected["train/loss"]) == 120
    assert "validation/recall/two" in expected
    for tag, points in expected.items():
        assert [(event.step, event.value) for event in events.Scalars(tag)] == points


def test_a_run_of_a_bad_name_does_not_leave_the_tensorboard_directory(runs_root, tmp_path):
    (run,) = read_runs([runs_root / "digits"])
    (folder,) = write_tensorboard([replace(run, name="../../out")], tmp_path / "events")
    assert folder == tmp_path / "events" / "out"


def test_a_report_that_fails_leaves_the_old_one_whole(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", num_epochs=1)
    output = write_report([run], tmp_path / "report.html")
    before = output.read_bytes()

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(gradledger.report.writing.os, "replace", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_report([run], output)
    assert output.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run"]


def test_the_command_writes_into_the_run_directory(tmp_path):
    run = write_run(tmp_path / "run", num_epochs=1)
    result = invoke(run)
    assert result.exit_code == 0
    assert (run / "report.html").stat().st_size > 1_000_000


def test_the_command_prints_other_forms_and_writes_where_it_is_told(tmp_path):
    run = write_run(tmp_path / "run", num_epochs=1)
    assert json.loads(invoke(run, "--format", "json").stdout)["title"] == "run"
    assert invoke(run, "--format", "markdown", "--output", tmp_path / "x.md").exit_code == 0
    assert (tmp_path / "x.md").read_text().startswith("# run\n")
    assert invoke(run, "--output", tmp_path / "r.html", "--tensorboard", tmp_path / "tb").exit_code == 0
    assert list((tmp_path / "tb" / "run").glob("events*"))


def test_a_mistake_on_the_command_line_is_one_line(tmp_path):
    for arguments, message in (
        ([str(tmp_path)], "holds no run"),
        ([str(tmp_path / "nowhere")], "holds no run"),
        ([str(tmp_path), "--format", "pdf"], "no format 'pdf': choose one of html, markdown, json"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "gradledger", "report", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_reporting_never_imports_torch(runs_root, tmp_path):
    code = (
        "import sys; from gradledger.report import page_of, render; from pathlib import Path; "
        f"render(page_of([Path({str(runs_root / 'digits')!r})]), 'html'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
