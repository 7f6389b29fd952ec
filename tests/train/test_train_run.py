"""A run against a separately written whole-batch loop; its determinism, its ledger, and how it ends."""

import math
import os
import signal

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from gradledger.engine import NonFiniteError
from gradledger.ledger import Evaluate, Metric, balance_of
from gradledger.train import Observer, Run, load_config, prepare
from gradledger.train.data import Data
from gradledger.train.watching import Refresher


class _Recorder(Observer):
    def __init__(self):
        self.updates, self.ledger, self.evaluations, self.summary = [], [], [], None

    def update(self, record):
        self.updates.append(record)

    def entries(self, entries):
        self.ledger.extend(entries)

    def evaluation(self, record):
        self.evaluations.append(record)

    def end(self, summary):
        self.summary = summary


def _random_data(num_samples=70):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_samples, 5, generator=generator)
    labels = torch.randint(3, (num_samples,), generator=generator)
    dataset = TensorDataset(inputs, labels)
    return Data("classification", dataset, dataset, 3, ("a", "b", "c"), (5,))


def _run(*overrides, data=None):
    recorder = _Recorder()
    run = Run(prepare(load_config(overrides=["device=cpu", *overrides]), data or _random_data()), [recorder])
    return run, recorder


def test_what_saves_memory_changes_no_number():
    plain, expected = _run("epochs=2", "model.hidden=[8,8]")
    saving, found = _run("epochs=2", "model.hidden=[8,8]", "checkpointing=true", "offload=cpu")
    accumulator = saving._passes._accumulator
    assert accumulator._checkpointing.names
    assert accumulator.gradient_bytes.host > 0
    plain.train()
    saving.train()
    assert [record.loss for record in found.updates] == [record.loss for record in expected.updates]
    for one, other in zip(saving.setup.model.parameters(), plain.setup.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_run_may_be_compiled():
    run, _ = _run("compile=true")
    assert run._passes._accumulator._compiled is not None


def _whole_batch_loop(run, batch_size):
    """The same training with one backward an update, written plainly."""
    setup = prepare(run.setup.config, run.setup.data)
    inputs, labels = setup.data.train.tensors
    model, optimizer, scheduler = setup.model.double(), setup.optimizer, setup.scheduler
    for epoch in range(1, setup.config.epochs + 1):
        generator = torch.Generator().manual_seed(setup.config.seed * 1_000_003 + epoch)
        order = torch.randperm(len(labels), generator=generator)
        for start in range(0, len(labels), batch_size):
            chosen = order[start : start + batch_size]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[chosen].double()), labels[chosen]).backward()
            if setup.config.clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), setup.config.clip_norm)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
    return model


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_is_the_whole_batch_run(optimizer):
    # 70 samples: 18 micro-batches of 4 (the last has 2) in windows of 3, each a whole batch of 12, the last of 10.
    run, _ = _run("micro_batch_size=4", "steps=3", "epochs=4", f"optimizer={optimizer}", "optimizer.lr=0.05",
                  "clip_norm=0.5", "scheduler=cosine")  # fmt: skip
    run.setup.model.double()
    dataset = run.setup.loader.dataset
    dataset.tensors = (dataset.tensors[0].double(), dataset.tensors[1])
    assert run.train().num_updates == 24
    expected = nn.utils.parameters_to_vector(_whole_batch_loop(run, 12).parameters())
    measured = nn.utils.parameters_to_vector(run.setup.model.parameters())
    assert ((measured - expected).norm() / expected.norm()).item() <= 1e-12


def _numbers(recorder):
    records = [(r.update, r.epoch, r.loss, r.grad_norm, r.lr, r.num_samples) for r in recorder.updates]
    return records, recorder.ledger, [(r.split, r.evaluation) for r in recorder.evaluations]


def test_two_runs_with_one_seed_are_identical_and_another_seed_differs():
    overrides = ("epochs=3", "micro_batch_size=8", "steps=2", "model.dropout=0.3", "optimizer=adamw")
    first, seen = _run(*overrides)
    second, seen_again = _run(*overrides)
    other, seen_otherwise = _run(*overrides, "seed=1")
    for run in (first, other, second):
        torch.randn(3)  # what happened before does not matter
        run.train()
    assert _numbers(seen) == _numbers(seen_again)
    assert _numbers(seen) != _numbers(seen_otherwise)
    for one, two in zip(first.setup.model.parameters(), second.setup.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_reading_several_updates_at_once_tells_the_same():
    (first, seen), (second, seen_at_once) = (
        _run("epochs=3", "micro_batch_size=4"),
        _run("epochs=3", "micro_batch_size=4"),
    )
    second._updates_per_read = 4  # as on an accelerator, where each read waits for the device
    first.train()
    second.train()
    assert _numbers(seen) == _numbers(seen_at_once)


def test_evaluating_does_not_change_the_training():
    run, recorder = _run("epochs=3", "model.dropout=0.5")
    run.train()
    other, other_recorder = _run("epochs=3", "model.dropout=0.5")
    other._evaluate = lambda split, epoch: recorder.evaluations[0].evaluation
    other.train()
    assert [record.loss for record in recorder.updates] == [record.loss for record in other_recorder.updates]


def test_the_ledger_balances_and_tells_what_was_measured():
    run, recorder = _run("epochs=2", "micro_batch_size=16", "steps=4", "clip_norm=1.0", "scheduler=linear")
    run.train()
    windows = [entry for entry in recorder.ledger if not isinstance(entry, Metric)]
    assert " ".join(entry.letter for entry in windows) == (
        "( B B B B C S L Z B C S L Z ) E ( B B B B C S L Z B C S L Z ) E E"
    )
    ledger = run._passes.ledger
    assert [balance_of(window).verdict for window in ledger.windows() if window.step] == ["balanced"] * 4
    metrics = [entry for entry in recorder.ledger if isinstance(entry, Metric)]
    validation = recorder.evaluations[0].evaluation
    by_name = {(entry.name, entry.split): entry.value for entry in metrics[: len(metrics) // 3]}
    assert by_name["loss", "validation"] == validation.loss
    assert by_name["recall/b", "validation"] == validation.metrics.recall[1]
    first_epoch = [record for record in recorder.updates if record.epoch == 1]
    total = sum(record.loss * record.num_samples for record in first_epoch)
    assert by_name["loss", "train"] == pytest.approx(total / 70)
    assert sum(isinstance(entry, Evaluate) for entry in recorder.ledger) == 3


def test_updates_are_told_as_they_were():
    run, recorder = _run("epochs=1", "micro_batch_size=16", "steps=4", "scheduler=linear", "optimizer.lr=0.1")
    summary = run.train()
    assert [(r.update, r.num_samples, r.num_micro_batches) for r in recorder.updates] == [(1, 64, 4), (2, 6, 1)]
    assert [r.lr for r in recorder.updates] == pytest.approx([0.1, 0.05])
    assert not any(r.skipped for r in recorder.updates)
    assert summary is recorder.summary
    assert summary.details["effective_batch"] == {"micro_batch_size": 16, "steps": 4, "ranks": 1, "samples": 64}
    assert summary.seconds["total"] >= sum(v for name, v in summary.seconds.items() if name != "total")
    parameter_bytes = sum(p.nbytes for p in run.setup.model.parameters())
    assert summary.peak_memory_bytes > 3 * parameter_bytes  # with gradients and momentum


def test_carried_tails_are_trained_on_in_the_end():
    run, recorder = _run("epochs=3", "micro_batch_size=16", "steps=4", "tail=carry")
    assert run.train().num_updates == run.setup.num_planned_updates == 4
    assert [r.num_micro_batches for r in recorder.updates] == [4, 4, 4, 3]
    assert sum(r.num_samples for r in recorder.updates) == 210


def test_a_character_model_learns_with_its_tokens_as_weights(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat. " * 40)
    overrides = ["device=cpu", "data=characters", f"data.text={path}", "data.context_length=32", "micro_batch_size=4",
                 "epochs=4", "model.width=32"]  # fmt: skip
    recorder = _Recorder()
    run = Run(prepare(load_config(overrides=overrides)), [recorder])
    run.train()
    weights = [entry.weight for entry in recorder.ledger if entry.letter == "B"]
    assert min(weights) < max(weights) == 128.0
    assert {entry.unit for entry in recorder.ledger if entry.letter == "B"} == {"tokens"}
    perplexities = [r.evaluation.metrics.perplexity for r in recorder.evaluations if r.split == "validation"]
    assert perplexities[-1] < 0.6 * perplexities[0]
    assert perplexities[-1] == pytest.approx(math.exp(run.evaluations["validation"].loss), rel=1e-5)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_every_precision_trains_and_evaluates(precision):
    run, recorder = _run("epochs=2", f"precision={precision}")
    assert run.train().exit == "finished"
    assert all(math.isfinite(record.loss) for record in recorder.updates)


def test_a_plateau_scheduler_waits_for_the_validation_loss():
    run, recorder = _run("epochs=6", "scheduler=plateau", "scheduler.patience=0", "optimizer.lr=5.0")
    run.train()
    schedules = [entry for entry in recorder.ledger if entry.letter == "L"]
    assert len(schedules) == 6
    assert schedules[-1].lr < 5.0


class _PressCtrlC(nn.Module):
    """Interrupts the process in the forward of one micro-batch."""

    def __init__(self, model, at):
        super().__init__()
        self.model, self.at, self.num_forwards = model, at, 0

    def forward(self, inputs):
        self.num_forwards += self.training
        if self.num_forwards == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return self.model(inputs)


def test_ctrl_c_voids_the_open_window_and_keeps_what_was_learnt():
    run, recorder = _run("micro_batch_size=8", "steps=4", "epochs=50")
    object.__setattr__(run.setup, "model", _PressCtrlC(run.setup.model, at=6))  # the second window's second
    handler = signal.getsignal(signal.SIGINT)
    summary = run.train()
    assert signal.getsignal(signal.SIGINT) is handler
    assert (summary.exit, summary.num_updates, summary.num_epochs) == ("interrupted", 1, 0)
    assert " ".join(entry.letter for entry in recorder.ledger) == "( B B B B S Z B B V"
    assert all(parameter.grad is None for parameter in run.setup.model.parameters())


def test_what_was_learnt_before_ctrl_c_is_that_of_the_updates_made():
    run, _ = _run("micro_batch_size=8", "steps=4", "epochs=50")
    object.__setattr__(run.setup, "model", _PressCtrlC(run.setup.model, at=6))
    run.train()
    shorter, _ = _run("micro_batch_size=8", "steps=4", "epochs=50")
    next(shorter._passes.one_pass(epoch=1, tail="keep", pause=lambda: None))
    for interrupted, expected in zip(run.setup.model.parameters(), shorter.setup.model.parameters(), strict=True):
        assert torch.equal(interrupted, expected)


def test_what_is_watched_is_refreshed_now_and_then():
    times = iter([0.0, 0.0, 0.5, 1.0, 2.6, 3.0, 3.1, 8.1, 8.2])  # made; called, 0.5 s long; too early; called; …
    refreshes = []
    refresher = Refresher(lambda: refreshes.append(1), clock=lambda: next(times))
    expected = [1, 1, 1, 1, 1, 2]  # after 0.5 s of work, 5 s of pause
    for number in expected:
        refresher.entries([])
        assert len(refreshes) == number
    assert list(times) == []


@pytest.mark.parametrize(
    ("overrides", "expected"), [((), 1), (("num_threads=2",), 2), (("model.hidden=[9999]",), None)]
)
def test_a_small_model_gets_one_thread(overrides, expected):
    seen, before = set(), torch.get_num_threads()

    class Look(Observer):
        def update(self, record):
            seen.add(torch.get_num_threads())

    setup = prepare(load_config(overrides=["device=cpu", "epochs=1", *overrides]), _random_data())
    Run(setup, [Look()]).train()
    assert seen == {expected or before}
    assert torch.get_num_threads() == before


def test_an_observer_that_fails_does_not_keep_the_others_from_the_end():
    class Fails(Observer):
        def update(self, record):
            raise BrokenPipeError

    first = _Recorder()
    run = Run(prepare(load_config(overrides=["device=cpu"]), _random_data()), [first, Fails()])
    with pytest.raises(BrokenPipeError):
        run.train()
    assert (first.summary.exit, first.summary.num_updates) == ("failed", 1)


def test_a_loss_that_is_not_finite_ends_the_run_as_failed():
    data = _random_data()
    data.train.tensors[0][3] = math.nan
    run, recorder = _run("epochs=1", data=data)
    with pytest.raises(NonFiniteError, match="micro-batch"):
        run.train()
    assert recorder.summary.exit == "failed"


def test_a_loss_that_is_not_finite_can_be_skipped():
    data = _random_data()
    data.train.tensors[0][3] = math.nan
    run, recorder = _run("epochs=1", "non_finite=skip-update", "micro_batch_size=8", "steps=2", data=data)
    assert run.train().num_updates == 4
    assert [record.skipped for record in recorder.updates].count(True) == 1
