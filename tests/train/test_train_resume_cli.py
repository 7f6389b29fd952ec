"""``gradledger train --resume``, and what is said when checkpoints are damaged or files cannot be written."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch

from faults.disk import full_at, full_from, watched_disk
from gradledger.train.checkpoint.layout import checkpoints_in
from train.in_process import run_command
from train.stopping import without_clocks

FEW = ("--set", "epochs=3", "--set", "micro_batch_size=64", "--set", "model.hidden=[8]", "--set", "name=mine")
"""23 micro-batches, 6 updates an epoch."""


def train(directory, *arguments):
    return run_command(directory, "train", *arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that came to its end without being stopped."""
    directory = tmp_path_factory.mktemp("finished")
    assert train(directory, *FEW).status == 0
    return directory / "runs" / "mine"


@pytest.fixture
def stopped(finished, tmp_path):
    """The same run as if it had been killed in its third epoch: two checkpoints, lines beyond them, half a line."""
    path = tmp_path / "runs" / "mine"
    shutil.copytree(finished, path)
    checkpoints = path / "checkpoints"
    shutil.rmtree(checkpoints_in(checkpoints)[-1])
    for name in ("metrics.jsonl", "ledger.jsonl"):
        (path / name).write_bytes((path / name).read_bytes()[:-70])
    return path


def lines(path):
    metrics = [without_clocks(json.loads(line)) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return metrics, (path / "ledger.jsonl").read_text(), (path / "checkpoints" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [
        (*FEW, "--resume", "auto"),
        ("--resume", "runs/mine"),
        ("--resume", "runs/mine/checkpoints/000001-update-000006"),
        ("runs/mine/config.yaml", "--resume", "auto"),
    ],
    ids=" ".join,
)
def test_a_killed_run_is_gone_on_with(finished, stopped, arguments):
    called = train(stopped.parent.parent, *arguments)
    assert called.status == 0, called.err
    number = 1 if "000001" in arguments[-1] else 2
    name = f"00000{number}-update-0000{6 * number:02}"
    assert called.err == f"Going on from runs/mine/checkpoints/{name}, after update {6 * number}\n"
    assert lines(stopped) == lines(finished)
    assert [path.name[:6] for path in checkpoints_in(stopped / "checkpoints")] == ["000001", "000002", "000003"]


def test_a_finished_run_is_left_alone(finished):
    before = lines(finished)
    for resume in ("auto", "runs/mine"):
        called = train(finished.parent.parent, *FEW, "--resume", resume)
        assert (called.status, called.out) == (0, "")
        assert called.err == "runs/mine is finished: there is nothing to go on with\n"
    assert lines(finished) == before


def test_auto_begins_where_there_is_nothing_and_again_where_no_checkpoint_was_made(finished, tmp_path):
    assert train(tmp_path, *FEW, "--resume", "auto").status == 0
    path = tmp_path / "runs" / "mine"
    assert lines(path) == lines(finished)
    for checkpoint in checkpoints_in(path / "checkpoints"):
        shutil.rmtree(checkpoint)
    (path / "metrics.jsonl").write_text('{"kind": "upda')
    called = train(tmp_path, *FEW, "--resume", "auto")
    assert (called.status, called.err) == (0, "runs/mine has no checkpoint yet: it begins again\n")
    assert lines(path) == lines(finished)


def test_auto_goes_on_with_the_last_run_that_has_no_name(finished, stopped):
    runs = stopped.parent
    for age, name, source in ((2, "digits-1", finished), (0, "digits-10", stopped), (1, "digits-12", stopped)):
        shutil.copytree(source, runs / name)
        os.utime(runs / name / "ledger.jsonl", (10**9 - age, 10**9 - age))
    shutil.rmtree(stopped)
    called = train(runs.parent, *FEW[:-2], "--resume", "auto")
    assert called.err.startswith("Going on from runs/digits-10/checkpoints/000002")
    assert lines(runs / "digits-10") == lines(finished)
    assert train(runs.parent, *FEW[:-2], "--resume", "auto").status == 0  # which is finished now: a new one
    assert lines(runs / "digits-2") == lines(finished)


def test_damaged_checkpoints_are_told_and_passed_over(finished, stopped):
    damaged = checkpoints_in(stopped / "checkpoints")[-1]
    (damaged / "state.safetensors").write_bytes(b"\0" * 100)
    called = train(stopped.parent.parent, "--resume", f"runs/mine/checkpoints/{damaged.name}")
    assert called.status == 2
    assert re.fullmatch(
        r"gradledger: runs/mine/checkpoints/000002-update-000012/state\.safetensors is damaged: it has 100 bytes, but "
        r"had \d+; the newest good one before it is runs/mine/checkpoints/000001-update-000006\n",
        called.err,
    )
    called = train(stopped.parent.parent, *FEW, "--resume", "auto")
    assert called.status == 0
    passed_over, going_on = called.err.splitlines()
    assert "state.safetensors is damaged: it has 100 bytes" in passed_over
    assert going_on == "Going on from runs/mine/checkpoints/000001-update-000006, after update 6"
    assert lines(stopped) == lines(finished)
    assert (stopped / "checkpoints" / f"damaged-{damaged.name}").is_dir()


def test_a_run_without_any_good_checkpoint_is_not_begun_again(stopped):
    for path in checkpoints_in(stopped / "checkpoints"):
        (path / "state.json").unlink()
    called = train(stopped.parent.parent, *FEW, "--resume", "auto")
    assert called.status == 2
    assert called.err.startswith("gradledger: runs/mine has no good checkpoint: runs/mine/checkpoints/000002")
    assert called.err.count("state.json is damaged: it is missing") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--resume", "nowhere"), "nowhere cannot be resumed: it is neither a run directory nor a checkpoint of one"),
        ((*FEW, "--resume", "auto", "--set", "seed=1"), "runs/mine was begun with another configuration: seed was 0"),
        (
            ("--resume", "runs/mine", "--set", "optimizer.lr=1"),
            "begun with another configuration: optimizer was {'name",
        ),
    ],
)
def test_what_cannot_be_gone_on_with_is_one_line(stopped, arguments, message):
    called = train(stopped.parent.parent, *arguments)
    assert called.status == 2
    assert message in called.err
    assert called.err.count("\n") == 1


def test_a_full_disk_stops_the_run_with_one_line(tmp_path):
    with watched_disk(full_from(60)):
        called = train(tmp_path, *FEW)
    assert called.status == 1
    first, second, *more = called.err.splitlines()
    assert re.fullmatch(
        r"gradledger: training failed: runs/mine/\S+ cannot be written: No space left on device: training stops "
        r"\(on_write_error: stop\)",
        first,
    )
    assert second == "Go on from 000001-update-000006 with: gradledger train --resume runs/mine"
    assert more in ([], ["gradledger: the report of runs/mine cannot be written: No space left on device"])


def test_a_run_stopped_by_a_full_disk_goes_on_when_there_is_room(finished, tmp_path):
    num_stopped = 0
    for number in range(5, 120, 9):
        directory = tmp_path / str(number)
        directory.mkdir()
        with watched_disk(full_from(number)):
            status = train(directory, *FEW).status
        num_stopped += status == 1
        assert train(directory, *FEW, "--resume", "auto").status == 0
        assert lines(directory / "runs" / "mine") == lines(finished)
    assert num_stopped >= 10


def test_a_run_can_go_on_over_a_full_disk_and_nothing_is_missing(finished, tmp_path):
    for number in range(9, 120, 19):
        directory = tmp_path / str(number)
        directory.mkdir()
        with watched_disk(full_at(number)):
            called = train(directory, *FEW, "--set", "on_write_error=continue")
        assert called.status == 0, number
        assert re.match(r"runs/mine\S* cannot be written: No space left on device: training goes on", called.err)
        assert lines(directory / "runs" / "mine") == lines(finished)


def test_a_run_whose_weights_could_not_be_written_is_not_finished(finished, tmp_path, monkeypatch):
    save = safetensors.torch.save_model

    def refuse(model, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(safetensors.torch, "save_model", refuse)
    called = train(tmp_path, *FEW, "--set", "on_write_error=continue")
    assert "runs/mine/checkpoints/model.safetensors cannot be written: No space left" in called.err
    assert '"incomplete": true' in (tmp_path / "runs" / "mine" / "metrics.jsonl").read_text().splitlines()[-1]
    monkeypatch.setattr(safetensors.torch, "save_model", save)
    called = train(tmp_path, *FEW, "--resume", "auto")
    assert called.err == "Going on from runs/mine/checkpoints/000003-update-000018, after update 18\n"
    assert lines(tmp_path / "runs" / "mine") == lines(finished)


def test_a_directory_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    (tmp_path / "runs" / "mine").mkdir(parents=True)

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", refuse)
    called = train(tmp_path, *FEW, "--resume", "auto")
    assert (called.status, called.err) == (2, "gradledger: runs/mine cannot be read: Permission denied\n")


_HOLD = """
import sys
from pathlib import Path
from gradledger.train.checkpoint.locking import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_two_processes_do_not_write_one_run(finished, stopped):
    other = subprocess.Popen(
        [sys.executable, "-c", _HOLD, stopped / "checkpoints"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    before = (stopped / "metrics.jsonl").read_bytes()
    called = train(stopped.parent.parent, "--resume", "runs/mine")
    assert called.status == 2
    assert called.err.splitlines()[-1] == (
        "gradledger: runs/mine is being written by another process: wait for its end, or end it"
    )
    assert (stopped / "metrics.jsonl").read_bytes() == before
    other.kill()
    other.communicate()
    assert train(stopped.parent.parent, "--resume", "runs/mine").status == 0
    assert lines(stopped) == lines(finished)
