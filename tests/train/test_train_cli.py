"""``gradledger train`` as people call it."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import yaml
from safetensors.torch import load_file

from gradledger.ledger import balance_of, read_ledger
from gradledger.train import prepare
from gradledger.train.config import load_config
from train.in_process import run_command


def _call(directory, *arguments):
    return run_command(directory, "train", *arguments)


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("default")
    called = _call(directory)
    called.path = directory / "runs" / "digits-1"
    return called


def _lines(path, kind):
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record.pop("kind") == kind]


def test_the_default_run_learns_the_digits(default_run):
    assert default_run.status == 0, default_run.err
    validation = [r for r in _lines(default_run.path, "evaluation") if r["split"] == "validation"]
    assert len(validation) == 20
    assert validation[-1]["accuracy"] >= 0.95
    assert sum(map(sum, validation[-1]["confusion"])) == 360


def test_the_end_is_told(default_run):
    out = default_run.out
    assert "micro-batches of 16 × 4 = effective batch 64, tail keep, 20 epochs, 460 updates" in out
    for heading in ("Results", "Validation, by class", "Confusion matrix", "accuracy", "precision", "recall", "F1"):
        assert heading in out
    assert re.search(r"Effective batch +16 samples × 4 micro-batches = 64 samples", out)
    assert re.search(r"Updates +460 in 20 epochs", out)
    assert re.search(r"Run directory +runs/digits-1", out)
    assert re.search(r"update 460/460  epoch 20  loss \d\.\d{4}  grad norm \d\.\d{3}  lr 0\.05  \d+ samples/s", out)


def test_the_first_windows_of_the_ledger_are_shown(default_run):
    assert re.search(r"1 +4 +16  gradients accumulated, weights updated, zeroed +\d\.\d{4}", default_run.out)
    assert len(re.findall("gradients accumulated", default_run.out)) == 8


def test_the_run_directory_holds_what_it_should(default_run):
    path = default_run.path
    assert sorted(item.name for item in path.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "ledger.jsonl",
        "metrics.jsonl",
        "report.html",
    ]
    config = yaml.safe_load((path / "config.yaml").read_text())
    assert (config["micro_batch_size"], config["steps"], config["optimizer"]["lr"]) == (16, 4, 0.05)
    updates = _lines(path, "update")
    assert [record["update"] for record in updates] == list(range(1, 461))
    assert updates[0].keys() == {
        "update", "epoch", "loss", "grad_norm", "lr", "num_samples", "num_micro_batches", "seconds", "skipped",
    }  # fmt: skip
    assert (updates[22]["num_samples"], updates[22]["num_micro_batches"]) == (29, 2)  # the tail
    (summary,) = _lines(path, "summary")
    assert summary["exit"] == "finished"
    assert summary["effective_batch"] == {"micro_batch_size": 16, "steps": 4, "ranks": 1, "samples": 64}
    assert summary.keys() >= {
        "task", "class_names", "num_updates", "num_epochs", "seconds", "peak_memory_bytes", "device", "versions",
    }  # fmt: skip


def test_every_window_of_the_ledger_balances(default_run):
    windows = [window for window in read_ledger(default_run.path / "ledger.jsonl").windows() if window.step]
    assert len(windows) == 460
    assert {balance_of(window).verdict for window in windows} == {"balanced"}


def test_the_weights_are_those_that_were_measured(default_run):
    weights = load_file(default_run.path / "checkpoints" / "model.safetensors")
    setup = prepare(load_config(default_run.path / "config.yaml"))
    setup.model.load_state_dict(weights)
    inputs, labels = setup.data.validation.tensors
    accuracy = (setup.model.cpu()(inputs).argmax(1) == labels).double().mean().item()
    last = [r for r in _lines(default_run.path, "evaluation") if r["split"] == "validation"][-1]
    assert accuracy == pytest.approx(last["accuracy"])


def test_the_written_configuration_gives_the_same_run(default_run, tmp_path):
    called = _call(tmp_path, str(default_run.path / "config.yaml"))
    assert called.status == 0, called.err
    again = tmp_path / "runs" / "digits-1"
    assert (again / "ledger.jsonl").read_bytes() == (default_run.path / "ledger.jsonl").read_bytes()
    assert _lines(again, "evaluation") == _lines(default_run.path, "evaluation")
    for one, two in zip(_lines(again, "update"), _lines(default_run.path, "update"), strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_the_whole_ledger_as_a_table(tmp_path):
    called = _call(tmp_path, "--table", "--set", "epochs=1", "--set", "clip_norm=1", "--set", "scheduler=cosine")
    assert called.status == 0, called.err
    rows = [line for line in called.out.splitlines() if "gradients accumulated" in line]
    assert len(rows) == 90
    assert [row for row in rows if "weights updated" in row] == rows[3::4] + rows[-1:]
    assert re.match(
        r" +1 +4 +16  gradients accumulated, clipped, weights updated, lr 0\.0\d+, zeroed +\d\.\d{4}", rows[3]
    )
    assert re.match(r" +23 +90 +13  ", rows[-1])
    assert "-- epoch 1" in called.out
    assert "-- validation: loss" in called.out


def test_the_report_is_there_while_the_run_goes_on_and_events_at_its_end(tmp_path):
    called = _call(tmp_path, "--watch", "--tensorboard", "events", "--set", "epochs=2")
    assert called.status == 0, called.err
    assert called.err == "Open runs/digits-1/report.html: it renews itself while the run goes on.\n"
    assert "digits-1" in (tmp_path / "runs" / "digits-1" / "report.html").read_text(encoding="utf-8")
    assert list((tmp_path / "events" / "digits-1").glob("events.*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "epoch=3"], "gradledger: the configuration: unknown key 'epoch' (value 3): did you mean 'epochs'?"),
        (["nowhere.yaml"], "gradledger: nowhere.yaml cannot be read: No such file or directory"),
        (["--set", "model=mpl"], "gradledger: unknown model 'mpl': did you mean 'mlp'?"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path, arguments, message):
    called = _call(tmp_path, *arguments)
    assert called.status == 2
    assert called.err.startswith(message)
    assert called.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_show_every_character_does_not_stop_the_run(tmp_path):
    completed = subprocess.run(
        [sys.executable, "-W", "error", "-m", "gradledger", "train", "--set", "epochs=1"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (completed.returncode, completed.stderr) == (0, "")
    assert "16 ? 4 = effective batch 64" in completed.stdout


def test_a_run_is_not_overwritten(tmp_path):
    arguments = ("--set", "name=mine", "--set", "epochs=1")
    assert _call(tmp_path, *arguments).status == 0
    called = _call(tmp_path, *arguments)
    assert (called.status, called.err) == (
        2,
        "gradledger: runs/mine is not empty: choose another name, or remove it first\n",
    )


def test_a_diverging_run_fails_with_what_it_learnt(tmp_path):
    (tmp_path / "own_net_of_train_cli_test.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.layer, self.n = torch.nn.Linear(64, 10), 0\n"
        "    def forward(self, x):\n        self.n += 1\n"
        "        return self.layer(x.flatten(1)) * (float('nan') if self.n == 10 else 1)\n"
    )
    called = _call(tmp_path, "--set", "model=own_net_of_train_cli_test:Net", "--set", "epochs=1")
    assert called.status == 1
    assert re.search("training failed: the loss of micro-batch 1 of the window is nan", called.err)
    (summary,) = _lines(tmp_path / "runs" / "digits-1", "summary")
    assert (summary["exit"], summary["num_updates"]) == ("failed", 2)
    assert (tmp_path / "runs" / "digits-1" / "checkpoints" / "model.safetensors").exists()
    assert str(tmp_path) not in sys.path


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_cleanly_and_the_run_can_be_gone_on_with(tmp_path, name, status):
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "gradledger", "train", "--table", "--set", "epochs=1000000"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    for line in process.stdout:
        if "weights updated" in line:
            process.send_signal(getattr(signal, name))
            break
    _, err = process.communicate(timeout=240)
    assert process.returncode == status
    exit = {130: "interrupted", 143: "terminated"}[status]
    going_on = r"Go on from 0\S+ with: gradledger train --resume runs/digits-1\n"
    assert re.fullmatch(rf"{exit.capitalize()} after update \d+\. {going_on}", err)
    path = tmp_path / "runs" / "digits-1"
    (summary,) = _lines(path, "summary")
    assert summary["exit"] == exit
    assert load_file(path / "checkpoints" / "model.safetensors")
    ledger = read_ledger(path / "ledger.jsonl")
    assert not any(window.is_open for window in ledger.windows())
    assert sum(1 for window in ledger.windows() if window.step) == summary["num_updates"]
