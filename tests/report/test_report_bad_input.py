"""Damaged and hostile records: refused with their place, or drawn without letting anything through."""

import json
import os
import shutil

import pytest
from synthetic_runs import write_run

from gradledger.errors import UserError
from gradledger.report import page_of, print_summary, render
from gradledger.report.findings import read_findings, shown
from gradledger.report.results import result_of
from gradledger.report.wording import number

HOSTILE = "\x1b[31m\x9b\udcff<b>"
ESCAPED = r"\x1b[31m\x9b\udcff"


@pytest.fixture
def hostile_run(tmp_path):
    return write_run(tmp_path / "run", num_epochs=1, class_names=[HOSTILE, "b", "c", "d"], config="name: \x7f\x1b\n")


@pytest.mark.parametrize(
    ("form", "escaped"), [("html", ESCAPED), ("markdown", r"\\x1b\[31m"), ("json", r"\u001b[31m\u009b\udcff")]
)
def test_control_characters_are_escaped(hostile_run, form, escaped):
    text = render(page_of([hostile_run]), form)
    assert escaped in text
    assert not {"\x1b", "\x9b", "\x7f", "\udcff"} & set(text)


def test_the_terminal_gets_none_either(hostile_run, capsys):
    renamed = hostile_run.rename(hostile_run.with_name("\x1b[31m"))
    metrics = renamed / "metrics.jsonl"
    metrics.write_text(
        metrics.read_text().replace('"exit": "finished"', json.dumps("exit") + ": " + json.dumps("\x1b[31m"))
    )
    print_summary(renamed)
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["arms", "differences", "in_float64", "statements"])
def test_a_comparison_whose_lists_are_none_is_refused(tmp_path, name):
    write_run(tmp_path / "a", num_epochs=1)
    write_run(tmp_path / "b", num_epochs=1)
    (tmp_path / "compare.json").write_text(json.dumps({name: 5}))
    with pytest.raises(UserError, match=f"compare.json: {name} is 5: it must be a list"):
        page_of([tmp_path])


@pytest.mark.parametrize("name", ["metrics.jsonl", "compare.json"])
def test_what_cannot_be_read_is_named(tmp_path, name):
    write_run(tmp_path / "run", num_epochs=1)
    path = tmp_path / name if name == "compare.json" else tmp_path / "run" / name
    path.unlink(missing_ok=True)
    path.symlink_to("/proc/self/mem")  # a file that not even root can read
    with pytest.raises(UserError, match="cannot be read: Input/output error"):
        page_of([tmp_path])


def test_a_pipe_in_place_of_a_file_is_no_reason_to_wait(tmp_path):
    run = write_run(tmp_path / "run", num_epochs=1)
    (run / "ledger.jsonl").unlink()
    os.mkfifo(run / "ledger.jsonl")
    shutil.move(run / "config.yaml", run / "config.txt")
    os.mkfifo(run / "config.yaml")
    assert page_of([run]).runs[0].config_text == ""


@pytest.mark.parametrize(
    "finding",
    [
        {"location": ["a.py", 3]}, {"location": {"file": ["x"], "line": "3"}},
        {"location": {"file": "/dev/zero", "line": 1}},
        {"count": "many"}, {"count": [1]}, {"first_update": {}}, {"evidence": 5}, {"count": 10**400},
        {"first_update": float("inf")},
    ],
)  # fmt: skip
def test_fields_of_the_wrong_kind_count_as_missing(finding):
    drawn = shown({"rule": "stale-gradient", "severity": "error", **finding})
    assert (drawn.times, drawn.first_update, drawn.evidence, drawn.source) == (1, None, (), ())


def test_notes_of_the_wrong_kind_count_as_missing():
    assert result_of({"findings": [], "verdict": "exact", "notes": 5}).verdict.sentences == ()


def test_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / "loop.json").symlink_to("loop.json")
    with pytest.raises(UserError, match="holds no run"):
        page_of([tmp_path / "loop.json"])
    with pytest.raises(UserError, match="cannot be read: Too many levels of symbolic links"):
        read_findings(tmp_path / "loop.json")


@pytest.mark.parametrize("field", ["loss", "update"])
def test_numbers_that_no_float_holds_are_refused(tmp_path, field):
    run = write_run(tmp_path / "run", num_epochs=1)
    record = {"kind": "update", "update": 1, "loss": 0.5, field: 10**400}
    (run / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match=rf"line 1: {field} is 1000+\.\.\.0+: it must be a"):
        page_of([run])


def test_numbers_that_no_float_holds_are_a_dash():
    assert (number(10**400), number(-(10**400)), number(10**300)[:3]) == ("–", "–", "1,0")
