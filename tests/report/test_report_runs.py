"""What is read from a run directory, and what is refused."""

import json

import pytest
from synthetic_runs import write_run

from gradledger.errors import UserError
from gradledger.report import read_run, read_runs


def test_a_run_is_read_whole(runs_root):
    run = read_run(runs_root / "digits")
    assert len(run.updates) == 120
    assert len(run.evaluations) == 10
    assert run.summary["exit"] == "finished"
    assert run.name == "digits"
    assert run.config_text.startswith("model: mlp")
    assert len(run.ledger.windows()) == 121  # the last holds the zeroing and the marks after the last step
    assert not run.is_live


def test_a_last_line_cut_short_is_left_out(tmp_path):
    directory = write_run(tmp_path / "run", num_epochs=1)
    for name in ("metrics.jsonl", "ledger.jsonl"):
        text = (directory / name).read_text()
        (directory / name).write_text(text[:-9])
    run = read_run(directory)
    assert not run.summary
    assert len(run.updates) == 12


@pytest.mark.parametrize(("damage", "what"), [("{", "is not JSON"), ("[1]", "is not a JSON object")])
def test_a_damaged_line_is_named(tmp_path, damage, what):
    directory = write_run(tmp_path / "run", num_epochs=1)
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    lines[3] = damage
    (directory / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=rf"metrics.jsonl, line 4 {what}"):
        read_run(directory)


@pytest.mark.parametrize(
    ("field", "value", "must"),
    [
        ("loss", '"low"', "a number or null"), ("update", "-1", "a whole number of at least 0, or null"),
        ("skipped", "3", "true, false or null"), ("lr", "true", "a number or null"),
    ],
)  # fmt: skip
def test_a_field_of_the_wrong_kind_is_named(tmp_path, field, value, must):
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "metrics.jsonl").write_text(
        f'{{"kind": "update", "update": 1}}\n{{"kind": "update", "{field}": {value}}}\n'
    )
    with pytest.raises(UserError, match=rf"metrics.jsonl, line 2: {field} is .*: it must be {must}"):
        read_run(directory)


@pytest.mark.parametrize("confusion", ["[[1, 2]]", "[[1, 2], [3]]", "[[1.5]]", "3", "[null]"])
def test_a_confusion_matrix_that_is_no_square_is_refused(tmp_path, confusion):
    (tmp_path / "metrics.jsonl").write_text(f'{{"kind": "evaluation", "confusion": {confusion}}}\n')
    with pytest.raises(UserError, match=r"confusion is .*: it must be a square of whole numbers"):
        read_run(tmp_path)


def test_a_damaged_ledger_is_named(tmp_path):
    directory = write_run(tmp_path / "run", num_epochs=1)
    (directory / "ledger.jsonl").write_text('{"ledger": 1}\n{"kind": "Nothing"}\n')
    with pytest.raises(UserError, match=r"ledger.jsonl, line 2: unknown kind 'Nothing'"):
        read_run(directory)


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no run: a run directory has a metrics.jsonl"):
        read_runs([tmp_path])


def test_a_directory_of_runs_gives_all_of_them_by_name(runs_root):
    assert [run.name for run in read_runs([runs_root / "compared"])] == ["accumulated", "large", "small"]


def test_runs_of_one_name_are_told_apart(tmp_path):
    paths = [write_run(tmp_path / parent / "run", num_epochs=1) for parent in ("a", "b")]
    assert [run.name for run in read_runs(paths)] == ["a/run", "b/run"]


def test_a_run_that_was_just_written_and_has_no_summary_is_live(tmp_path):
    assert read_run(write_run(tmp_path / "run", num_epochs=1, finished=False)).is_live


def test_numbers_that_were_not_finite_are_missing(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    records = [{"kind": "update", "update": n, "loss": None if n == 2 else 1.0 / n} for n in (1, 2, 3)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert read_run(directory).column("loss") == [1.0, None, 1 / 3]
