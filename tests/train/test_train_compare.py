"""Comparisons: the arms differ as they should, the broken ones are named by the rules, the sentences follow."""

import json
import math
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import TensorDataset

from gradledger.errors import UserError
from gradledger.ledger import read_ledger
from gradledger.metrics import Evaluation, classification_metrics
from gradledger.rules import judge
from gradledger.train import load_config
from gradledger.train.arms import ARMS, choose_arms, lr_factor
from gradledger.train.comparison import ArmRun, Comparison, Difference, compare
from gradledger.train.data import Data
from gradledger.train.setup import complete
from gradledger.train.statements import statements_of
from gradledger.train.statistics import estimate
from train.in_process import run_command


def _call(directory, *arguments):
    return run_command(directory, "compare", *arguments)


@pytest.fixture(scope="module")
def called(tmp_path_factory):
    directory = tmp_path_factory.mktemp("compare")
    called = _call(directory, "--arms", "all", "--seeds", "2", "--set", "epochs=3", "--set", "device=cpu")
    called.path = directory / "runs" / "compare-digits-1"
    called.record = json.loads((called.path / "compare.json").read_text()) if called.path.exists() else None
    return called


def _arm(called, name):
    return next(arm for arm in called.record["arms"] if arm["name"] == name)


def test_accumulated_is_the_large_batch_from_every_seed(called):
    assert called.status == 0, called.err
    assert [difference["seed"] for difference in called.record["differences"]] == [0, 1]
    assert all(difference["relative"] < 1e-6 for difference in called.record["differences"])
    assert [difference["after"] for difference in called.record["in_float64"]] == [1, 69]
    assert all(difference["relative"] < 1e-14 for difference in called.record["in_float64"])
    one, other = (_arm(called, name)["runs"] for name in ("accumulated", "large-batch"))
    for accumulated, large in zip(one, other, strict=True):
        assert accumulated["num_updates"] == large["num_updates"] == 69
        assert accumulated["validation"]["confusion"] == large["validation"]["confusion"]
        assert accumulated["validation"]["loss"] == pytest.approx(large["validation"]["loss"], rel=1e-5)
        assert accumulated["peak_memory_bytes"] < large["peak_memory_bytes"]


def test_arms_update_as_often_as_they_say(called):
    updates = {arm["name"]: arm["estimates"]["num_updates"]["mean"] for arm in called.record["arms"]}
    assert updates == {**dict.fromkeys(updates, 69), "small-batch": 270, "tail-dropped": 66}
    assert list(updates) == ["small-batch", "accumulated", "large-batch", "scaled-lr", "clipped", "never-zeroed",
                             "zeroed-inside", "not-normalized", "tail-mis-scaled", "tail-dropped"]  # fmt: skip


def test_every_arm_sees_the_same_samples_in_the_same_order(called):
    """At the first update the loss is that of the same 64 samples through the same weights."""
    first = {}
    for arm in called.record["arms"]:
        lines = (called.path / arm["name"] / "seed-0" / "metrics.jsonl").read_text().splitlines()
        first[arm["name"]] = json.loads(lines[0])
    assert first.pop("small-batch")["num_samples"] == 16
    assert {record["num_samples"] for record in first.values()} == {64}
    assert max(r["loss"] for r in first.values()) - min(r["loss"] for r in first.values()) < 1e-6


EXPECTED_FINDINGS = {
    "never-zeroed": {"stale-gradient"},
    "zeroed-inside": {"discarded-gradient"},
    "not-normalized": {"unnormalized-loss"},
    "tail-mis-scaled": {"uneven-window-scale"},
    "tail-dropped": {"dropped-tail"},
}


@pytest.mark.parametrize("name", [name for name in ARMS if name != "unclipped"])
def test_the_rules_name_the_mistake_of_each_broken_arm_and_nothing_else(called, name):
    ledger = read_ledger(called.path / name / "seed-0" / "ledger.jsonl")
    bookkeeping = {f.rule for f in judge(ledger) if f.severity in ("error", "warning") and not f.code.startswith("GL8")}
    expected = EXPECTED_FINDINGS.get(name, set())
    assert expected <= bookkeeping, bookkeeping
    if not expected:
        assert bookkeeping == set()


def test_broken_arms_that_matter_learn_less(called):
    losses = {arm["name"]: arm["estimates"]["loss"]["mean"] for arm in called.record["arms"]}
    assert losses["never-zeroed"] > 2 * losses["accumulated"]
    assert losses["zeroed-inside"] > 1.2 * losses["accumulated"]


def test_what_is_shown(called):
    out = called.out
    for text in ("Validation: means over 2 seeds", "lowest recall", "Training loss over the run", "top norm",
                 "Confusion over all seeds, accumulated and large-batch alike", "Accumulated − large batch",
                 "nothing but rounding", "does not reproduce here", "Clipping the window's gradient",
                 "Compare directory  runs/compare-digits-1"):  # fmt: skip
        assert text in out, text
    assert re.search(r"2/20  seed 0  accumulated +69 updates +\d+\.\d\d s  finished, accuracy \d\d\.\d\d%", out)
    assert "accumulated" in (called.path / "report.html").read_text(encoding="utf-8")
    assert called.record["statements"] == [
        line.removeprefix("• ") for line in out.splitlines() if line.startswith("• ")
    ]


def test_intervals_are_those_of_student(called):
    accuracies = [run["validation"]["accuracy"] for run in _arm(called, "accumulated")["runs"]]
    estimated = _arm(called, "accumulated")["estimates"]["accuracy"]
    half_width = 12.706204736 * abs(accuracies[0] - accuracies[1]) / 2  # t(1 degree of freedom, 97.5 %)
    assert estimated["mean"] == pytest.approx(sum(accuracies) / 2)
    assert estimated["half_width"] == pytest.approx(half_width, rel=1e-6)


def test_a_rare_class_is_hidden_by_accuracy(tmp_path):
    called = _call(tmp_path, "--data", "breast-cancer", "--positive-fraction", "0.02", "--seeds", "1",
                   "--arms", "accumulated,zeroed-inside", "--set", "epochs=5")  # fmt: skip
    assert called.status == 0, called.err
    record = json.loads((tmp_path / "runs" / "compare-breast-cancer-1" / "compare.json").read_text())
    (run,) = record["arms"][1]["runs"]
    assert run["validation"]["accuracy"] >= 0.97
    assert min(run["validation"]["recall"]) < 0.3
    (statement,) = [text for text in record["statements"] if "misleads" in text]
    assert re.search(
        r"zeroed-inside \(1 of 1 seeds\).* misses \d+ of 42 samples of 'malignant' \(recall \d+%\)", statement
    )
    assert "PR-AUC" in called.out


def test_ctrl_c_ends_the_comparison_with_what_there_is(tmp_path, monkeypatch):
    (tmp_path / "own_net_of_compare_test.py").write_text(
        "import os, signal, torch\n"
        "class Net(torch.nn.Module):\n"
        "    num = 0\n"
        "    def __init__(self):\n        super().__init__()\n        self.layer = torch.nn.Linear(64, 10)\n"
        "    def forward(self, x):\n        Net.num += 1\n"
        "        if Net.num == 300:\n            os.kill(os.getpid(), signal.SIGINT)\n"
        "        return self.layer(x.flatten(1))\n"
    )
    arguments = ["--set", "model=own_net_of_compare_test:Net", "--arms", "small-batch,accumulated", "--set", "epochs=2"]
    handler = signal.getsignal(signal.SIGINT)
    called = _call(tmp_path, *arguments)
    assert called.status == 130, called.err
    assert signal.getsignal(signal.SIGINT) is handler
    record = json.loads((tmp_path / "runs" / "compare-digits-1" / "compare.json").read_text())
    assert [run["exit"] for arm in record["arms"] for run in arm["runs"]][-1] == "interrupted"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", "acumulated"], "gradledger: unknown arm 'acumulated': did you mean 'accumulated'? The arms are"),
        (["--set", "epochs=x"], "gradledger: the configuration: epochs is 'x'"),
        (["--positive-fraction", "0.02"], "gradledger: unknown key 'data.positive_fraction' (value 0.02)"),
        (["--data", "digit"], "gradledger: unknown data 'digit': did you mean 'digits'?"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path, arguments, message):
    called = _call(tmp_path, *arguments)
    assert (called.status, called.err.count("\n")) == (2, 1)
    assert called.err.startswith(message)
    assert list(tmp_path.iterdir()) == []


def _data(num_samples=48):
    generator = torch.Generator().manual_seed(0)
    dataset = TensorDataset(
        torch.randn(num_samples, 5, generator=generator), torch.randint(2, (num_samples,), generator=generator)
    )
    return Data("classification", dataset, dataset, 2, ("no", "yes"), (5,))


def _config(*overrides):
    return complete(load_config(overrides=["device=cpu", "micro_batch_size=4", *overrides]), _data())


def test_the_choice_of_arms():
    assert [arm.name for arm in choose_arms(None, _config())][-1] == "clipped"
    assert [arm.name for arm in choose_arms(None, _config("clip_norm=1"))][-1] == "unclipped"
    assert [arm.name for arm in choose_arms("broken, accumulated", _config())][-2:] == ["tail-dropped", "accumulated"]
    assert len(choose_arms("all,default", _config())) == 10


def test_what_each_arm_changes():
    config = _config("optimizer.lr=0.1", "clip_value=0.3")
    assert ARMS["scaled-lr"].configure(config).optimizer.arguments["lr"] == pytest.approx(0.4)
    assert lr_factor(_config("optimizer=adamw")) == 2.0
    assert ARMS["small-batch"].configure(config).effective_num_samples == 4
    large = ARMS["large-batch"].configure(config)
    assert (large.micro_batch_size, large.steps) == (16, 1)
    clipped = ARMS["clipped"].configure(config)
    assert (clipped.clip_norm, clipped.clip_value) == (0.5, None)
    assert ARMS["unclipped"].configure(config).clip_value is None


def test_a_rate_that_is_not_there_cannot_be_scaled(monkeypatch):
    config = _config().model_copy(update={"optimizer": _config().scheduler})
    assert "scaled-lr" not in [arm.name for arm in choose_arms(None, config)]
    with pytest.raises(UserError, match=r"the arm 'scaled-lr' needs optimizer\.lr"):
        ARMS["scaled-lr"].configure(config)


def _trained(tmp_path, *overrides, arms="accumulated,large-batch", data=None):
    config = complete(
        load_config(overrides=["device=cpu", "micro_batch_size=4", "epochs=2", *overrides]), data or _data()
    )
    comparison = Comparison(config, data or _data(), choose_arms(arms, config), (0, 1))
    for _ in compare(comparison, tmp_path):
        pass
    return comparison


class _Centred(torch.nn.Module):
    """Couples the samples of a batch."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))

    def forward(self, inputs):
        return self.layers(inputs)


def test_batch_statistics_are_named_as_the_cause(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "centred_module_of_test", SimpleNamespace(Net=_Centred))
    comparison = _trained(tmp_path, "model=centred_module_of_test:Net")
    (statement,) = statements_of(comparison)
    assert "which is no rounding: the model has BatchNorm1d" in statement


def test_unstable_training_is_not_taken_for_inexact_updates(tmp_path):
    comparison = _trained(tmp_path, "optimizer.lr=30", "epochs=40", "optimizer.momentum=0.95", "model.hidden=[32,32]")
    comparison.in_float64[1:] = [Difference(0, "float64", 120, 4.0, 0.3)]
    (statement,) = statements_of(comparison)
    assert "equal but for rounding, and this training is so unstable that rounding grows" in statement


def test_an_arm_that_diverges_is_a_result(tmp_path):
    comparison = _trained(tmp_path, "optimizer.lr=1e30", "epochs=3", arms="accumulated,never-zeroed")
    assert {run.exit for run in comparison.of("accumulated")} == {"failed"}
    assert comparison.as_record([])["arms"][0]["runs"][0]["exit"] == "failed"
    assert any("stopped being a number" in statement for statement in statements_of(comparison))


def test_other_tasks_compare_by_their_own_figures(tmp_path):
    inputs = torch.randn(48, 5)
    data = Data("regression", TensorDataset(inputs, inputs.sum(1)), TensorDataset(inputs, inputs.sum(1)), 1, (), (5,))
    comparison = _trained(tmp_path, "optimizer.lr=0.01", data=data)
    assert comparison.in_float64[-1].relative < 1e-12
    assert math.isfinite(comparison.estimate("accumulated", "rmse").mean)
    assert not any("founding" in statement for statement in statements_of(comparison))


def _invented(accuracies, late_losses=None):
    """A comparison with made-up accuracies of the small batch and accumulated, a pair a seed."""
    comparison = Comparison(_config(), _data(), choose_arms("small-batch,accumulated", _config()), (0,))
    for seed, pair in enumerate(accuracies):
        for index, (arm, accuracy) in enumerate(zip(("small-batch", "accumulated"), pair, strict=True)):
            labels = torch.arange(1000) % 2
            predictions = torch.where(torch.arange(1000) < accuracy * 1000, labels, 1 - labels)
            metrics = classification_metrics(labels, predictions, num_classes=2)
            losses = [late_losses[index]] * 4 if late_losses else [1.0] * 4
            run = ArmRun(arm, seed, "finished", 40 if index == 0 else 10, 1.0, None, Evaluation(1.0, metrics), losses,
                         1.0, [1.0], torch.ones(1))  # fmt: skip
            comparison.runs.append(run)
    return comparison


@pytest.mark.parametrize(
    ("accuracies", "late_losses", "expected", "unexpected"),
    [
        ([(0.70, 0.78), (0.71, 0.79), (0.69, 0.775)], (2.0, 1.0), "by accumulating reproduces.* does not settle",
         "Why: in the same epochs"),
        ([(0.97, 0.95), (0.96, 0.945), (0.97, 0.955)], None, "does not reproduce.*Why: in the same epochs", "settle"),
        ([(0.97, 0.95), (0.95, 0.97), (0.96, 0.96)], None, "does not reproduce.*In the same epochs", "Why"),
        ([(0.70, 0.72), (0.71, 0.73), (0.70, 0.721)], (2.0, 1.0), "does not reproduce.*Why: at this", "Why: in"),
        ([(0.70, 0.90)], None, r"does not reproduce.* \+20.0 points over 1 seeds", "Why"),
    ],
)  # fmt: skip
def test_whether_the_founding_example_reproduces(accuracies, late_losses, expected, unexpected):
    text = " ".join(statements_of(_invented(accuracies, late_losses)))
    assert re.search(expected, text), text
    assert unexpected not in text


def test_estimates_leave_out_what_is_no_number():
    estimated = estimate([1.0, math.nan, 3.0])
    assert (estimated.mean, estimated.num_seeds) == (2.0, 2)
    assert estimate([]).num_seeds == 0
    assert estimate([5.0]).lower == -math.inf


def test_every_arm_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([\w-]+)` \|", text, flags=re.MULTILINE))
    assert documented == set(ARMS)
