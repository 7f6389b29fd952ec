"""A configured run over two ranks: the same figures and weights as in one process, and one end for all."""

import pytest
from rank_runs import CONFIG, Command, InterruptedRun, TrainRun, train
from spawning import run_on_ranks

from gradledger.errors import UserError
from gradledger.report.picture import tracks_of
from gradledger.report.runs import read_run
from gradledger.train.config import TrainConfig
from gradledger.train.ranks import RunRanks, joined
from gradledger.train.setup import prepare

EFFECTIVE = "effective_batch_size=30"
TEXT = ("data=rank_runs:text", "model=rank_runs:reader", "optimizer.name=sgd", "micro_batch_size=4", "epochs=1")
SAME = {
    "ddp": (EFFECTIVE, "clip_norm=0.5"),
    "fsdp2": (EFFECTIVE, "clip_norm=0.5", "parallel=fsdp2"),
    "every": (EFFECTIVE, "parallel=fsdp2", "sync=every"),
    "dropped tail": (EFFECTIVE, "tail=drop", "scheduler=plateau", "scheduler.patience=0"),
    "carried tail": (EFFECTIVE, "tail=carry", "epochs=3", "scheduler=cosine"),
    "listed": ("data=rank_runs:listed", EFFECTIVE, "parallel=fsdp2"),
    "streamed": ("data=rank_runs:streamed", EFFECTIVE),
    "tokens": (*TEXT, "effective_batch_size=24", "parallel=fsdp2"),
}
FAILING = {
    "observer": TrainRun(fails_on=0),
    "forward": TrainRun("model=rank_runs:fragile", "model.at=5", "steps=3"),
    "evaluation": TrainRun("model=rank_runs:fragile", "model.at=2", "model.in_evaluation=true"),
    "preparation": TrainRun("model=rank_runs:fragile", "model.at_once=true"),
    "unlike data": TrainRun("data.chance=true"),
    "few samples": TrainRun("data.num_samples=4"),
    "odd batch": TrainRun("effective_batch_size=35"),
    "not finite": TrainRun("data.broken=40"),
    "replicas": TrainRun("parallel=fsdp2", "parallel.replicas=3"),
    "tail of a stream": TrainRun("data=rank_runs:streamed", "tail=carry"),
    "device": TrainRun("device=cuda:1"),
    "offload": TrainRun("offload=cpu"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def results(folder):
    cases = {name: TrainRun(*overrides) for name, overrides in SAME.items()}
    overrides = [text for override in (*CONFIG, EFFECTIVE) for text in ("--set", override)]
    commands = {
        "command": Command(str(folder), *overrides, "--set", "name=one"),
        "same name": Command(str(folder), *overrides, "--set", "name=one"),
        "unknown key": Command(str(folder), "--set", "optimiser=sgd"),
        "command fails": Command(str(folder), *overrides, "--set", "data.broken=40"),
    }
    cases["automatic size"] = TrainRun(EFFECTIVE, "micro_batch_size=auto")
    return run_on_ranks(2, {**cases, **FAILING, "interrupted": InterruptedRun(), **commands})


@pytest.mark.parametrize("name", SAME)
def test_two_ranks_come_to_what_one_process_comes_to(results, name):
    first, second = results[name]
    alone = train(RunRanks(), SAME[name])
    assert first.saved.keys() == alone.saved.keys() > set()
    for name, weights in alone.saved.items():
        assert (first.saved[name] - weights).abs().max() <= 1e-12 * weights.abs().max()
    for ours, other, expected in zip(first.updates, second.updates, alone.updates, strict=True):
        for figure in ("update", "epoch", "num_samples", "num_micro_batches", "skipped"):
            assert ours[figure] == other[figure] == expected[figure]
        for figure in ("loss", "grad_norm", "lr"):
            assert ours[figure] == other[figure] == pytest.approx(expected[figure], rel=1e-12)
    for ours, other, expected in zip(first.evaluations, second.evaluations, alone.evaluations, strict=True):
        assert ours == other
        assert ours.keys() == expected.keys()
        for figure, value in expected.items():
            assert ours[figure] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value)


def test_ranks_agree_about_a_measured_size_and_come_to_the_same_with_it(results):
    alone = train(RunRanks(), SAME["ddp"][:1])
    for seen in results["automatic size"]:
        assert [update["num_micro_batches"] for update in seen.updates] == [
            update["num_micro_batches"] for update in results["automatic size"][0].updates
        ]
        for ours, expected in zip(seen.updates, alone.updates, strict=True):
            assert ours["num_samples"] == expected["num_samples"]
            assert ours["loss"] == pytest.approx(expected["loss"], rel=1e-12)
    for name, weights in alone.saved.items():
        assert (results["automatic size"][0].saved[name] - weights).abs().max() <= 1e-12 * weights.abs().max()


def test_the_effective_batch_counts_all_ranks(results):
    first, second = results["ddp"]
    batch = first.summary.details["effective_batch"]
    assert batch == {"micro_batch_size": 5, "steps": 3, "ranks": 2, "samples": 30}
    assert sum(update["num_samples"] for update in first.updates) == 2 * 83  # each sample once an epoch
    assert first.summary.num_updates == second.summary.num_updates == 6


@pytest.mark.parametrize(
    ("name", "at_fault", "own", "told"),
    [
        (
            "observer",
            0,
            "OSError: no space left",
            "at the start of a window, rank 0 failed with OSError: no space left",
        ),
        ("forward", 1, "ValueError: disk on fire", "rank 1 failed with ValueError: disk on fire"),
        ("evaluation", 1, "ValueError: disk on fire", "at the end of an evaluation, rank 1 failed with ValueError"),
        (
            "preparation",
            1,
            "UserError: model 'rank_runs:fragile': no such weights",
            "at the preparation of the model, rank 1 failed with",
        ),
    ],
)
def test_an_error_on_one_rank_is_known_to_the_other(results, name, at_fault, own, told):
    assert results[name][at_fault] == own
    assert results[name][1 - at_fault].startswith("RankError: ")
    assert told in results[name][1 - at_fault]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unlike data", "the ranks made unlike data: rank 0 has {'task': 'classification'"),
        ("few samples", "the training set has 4 samples, or 1 micro-batches of 5, for 2 ranks"),
        ("odd batch", "effective_batch_size (35) is not a multiple of 2 ranks × micro_batch_size (5): choose 30 or 40"),
        ("not finite", "NonFiniteError"),
        ("replicas", "parallel.replicas is 3: it must divide the 2 ranks"),
        ("tail of a stream", "tail is 'carry', but the training set has no length to share out over 2 ranks"),
        ("device", "device is 'cuda:1', but several ranks cannot share it"),
        ("offload", "offload='cpu' (a sharded model has torch's CPUOffloadPolicy) is not supported over 2 ranks"),
    ],
)
def test_a_mistake_ends_all_ranks_with_the_same_words(results, name, message):
    first, second = results[name]
    assert message in first
    assert first == second


def test_ctrl_c_on_one_rank_ends_all_after_the_same_window(results):
    assert results["interrupted"] == [("interrupted", 2, 4), ("interrupted", 2, 0)]  # rank 0 saves four tensors


def test_the_command_shows_and_writes_one_run(results, folder):
    (status, out, err), other = results["command"]
    assert (status, err, other) == (0, "", (0, "", ""))
    assert "2 ranks × micro-batches of 5 × 3 = effective batch 30, tail keep, 2 epochs, 6 updates" in out
    assert "Effective batch  2 ranks × 5 samples × 3 micro-batches = 30 samples" in out
    assert "Reduction        sync='last': one all-reduce a window, each of 2 ranks sends 664 bytes" in out
    assert "All 6 updates balance" in out
    files = {path.name for path in (folder / "runs" / "one").iterdir()}
    assert files == {
        "config.yaml", "ledger.jsonl", "ledger-rank-1.jsonl", "metrics.jsonl", "checkpoints", "report.html"
    }  # fmt: skip
    tracks = tracks_of(read_run(folder / "runs" / "one").ledger)
    assert [(track.rank, track.num_windows, track.states["balanced"]) for track in tracks] == [(0, 6, 6), (1, 6, 6)]


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("same name", 2, "runs/one is not empty: choose another name"),
        ("unknown key", 2, "unknown key 'optimiser'"),
        ("command fails", 1, "training failed: on rank"),
    ],
)
def test_a_command_that_fails_says_so_once(results, name, status, message):
    first, second = results[name]
    assert (first[0], second) == (status, (status, "", ""))
    assert message in first[2]


def test_what_runs_in_one_process_refuses_several_ranks(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"one of 2 ranks \(WORLD_SIZE\), but this runs in one process"):
        prepare(TrainConfig())
    with pytest.raises(UserError, match="there are 2 ranks, but RANK, MASTER_ADDR, MASTER_PORT is not set"), joined():
        pass
