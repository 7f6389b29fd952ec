"""The run directory's files, as others read them."""

import json
import math
from contextlib import closing

import pytest

from gradledger.errors import UserError
from gradledger.ledger import Backward, Step, read_ledger
from gradledger.train.run_directory import RunDirectory


def test_names_count_up_and_a_given_name_is_kept(tmp_path):
    names = []
    for name in (None, None, "<script>", None):
        with closing(RunDirectory.create(tmp_path, name, stem="digits")) as directory:
            names.append(directory.path.name)
    assert names == ["digits-1", "digits-2", "<script>", "digits-3"]


def test_a_directory_that_is_not_empty_is_refused(tmp_path):
    RunDirectory(tmp_path / "run").close()
    with pytest.raises(UserError, match=r"run is not empty: choose another name, or remove it first"):
        RunDirectory(tmp_path / "run")


@pytest.mark.parametrize("name", ["run", None])
def test_a_file_in_the_way_is_named(tmp_path, name):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match=r"runs.* (cannot be made: |is a file)"):
        RunDirectory.create(tmp_path / "runs", name, stem="digits")


def test_numbers_that_are_not_finite_are_null(tmp_path):
    record = {"kind": "update", "loss": math.nan, "recall": (1.0, math.inf), "more": {"x": -math.inf}}
    with closing(RunDirectory(tmp_path / "run")) as directory:
        directory.append_metrics(record)
    line = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert json.loads(line) == {"kind": "update", "loss": None, "recall": [1.0, None], "more": {"x": None}}


def test_lines_are_on_disk_before_the_run_ends(tmp_path):
    entries = [Backward(micro_batch=1, weight=16.0), Step(micro_batch=1)]
    with closing(RunDirectory(tmp_path / "run")) as directory:
        directory.append_entries(entries)
        assert list(read_ledger(tmp_path / "run" / "ledger.jsonl")) == entries
