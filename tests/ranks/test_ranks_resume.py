"""Runs of several ranks go on where they were stopped: bitwise by as many ranks, to float error by others."""

import pytest
from rank_resume import MARK, FullDisk, Immortal, RandomPoints, Training, Unshared, files, restarted, terminate
from spawning import run_on_ranks

from gradledger.train.checkpoint.layout import checkpoints_in

STOP = {"actions": {7: terminate}}
"""In the third window of two ranks, and the second one of one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def alone(folder):
    """What one process comes to without being stopped."""
    return Training(f"{folder}/alone")(0, 1)[1]


@pytest.fixture(scope="module")
def results(folder):
    """What two ranks do. Some of it was begun by one rank, some of it others go on with."""
    assert Training(f"{folder}/one, then two", "checkpoint_every=1", **STOP)(0, 1)[0] == "terminated"
    write, save = "gradledger.train.checkpoint.lines.os.write", "gradledger.train.checkpoint.writing.save_file"
    return run_on_ranks(
        2,
        {
            "ddp": RandomPoints(f"{folder}/ddp", 2, "parallel=ddp", "checkpoint_every=2"),
            "fsdp2": RandomPoints(f"{folder}/fsdp2", 2, "parallel=fsdp2", "checkpoint_every=2"),
            "two": Training(f"{folder}/two"),
            "one, then two": Training(f"{folder}/one, then two", "parallel=fsdp2", resume="auto"),
            "two, then three": Training(f"{folder}/two, then three", "parallel=fsdp2", **STOP),
            "two, then one": Training(f"{folder}/two, then one", "parallel=fsdp2", **STOP),
            "carried": Training(f"{folder}/carried", "tail=carry", **STOP),
            "unshared": Unshared(f"{folder}/unshared"),
            "no room for a checkpoint": FullDisk(f"{folder}/no room", save, 1),
            "no room for one checkpoint": FullDisk(f"{folder}/no room once", save, 1, "on_write_error=continue"),
            "no room for lines": FullDisk(f"{folder}/no lines", write, 3, "on_write_error=continue"),
        },
    )


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_ranks_go_on_bitwise_from_random_points(results, parallel):
    (places, unlike), second = results[parallel]
    assert second == (places, unlike)
    assert unlike == []
    assert len(set(places.values()) - {""}) >= 2


def assert_close(found, expected):
    """The same figures and weights to float error."""
    (weights, metrics, _), (expected_weights, expected_metrics, _) = found, expected
    assert weights.keys() == expected_weights.keys() > set()
    for name in weights:
        assert flat(weights[name]) == pytest.approx(flat(expected_weights[name]), rel=1e-10, abs=1e-12)
    for ours, wanted in zip(metrics[:-1], expected_metrics[:-1], strict=True):
        for figure in ("kind", "update", "epoch", "num_samples"):
            assert ours.get(figure) == wanted.get(figure)
        for figure in {"loss", "grad_norm", "lr"} & wanted.keys():
            assert ours[figure] == pytest.approx(wanted[figure], rel=1e-10)


def flat(value):
    return [value] if isinstance(value, float) else [number for each in value for number in flat(each)]


def test_one_process_is_gone_on_with_by_two_from_between_windows(results, alone, folder):
    assert [exit for exit, _ in results["one, then two"]] == ["finished"] * 2
    assert_close(results["one, then two"][0][1], alone)
    assert "update-000001-micro-batch-1" not in str(checkpoints_in(folder / "one, then two" / "run" / "checkpoints"))


@pytest.fixture(scope="module")
def of_three(results, folder):
    """What three ranks do, partly with what two began."""
    return run_on_ranks(
        3,
        {
            "two, then three": Training(f"{folder}/two, then three", "parallel=fsdp2", resume="auto"),
            "ddp": RandomPoints(f"{folder}/three", 2, "epochs=3"),
        },
    )


def test_three_ranks_go_on_bitwise_from_random_points(of_three):
    """Sums of more than two hang on their order, which DDP lets hang on where its buckets begin."""
    for places, unlike in of_three["ddp"]:
        assert unlike == []
        assert any(places.values())


@pytest.mark.parametrize(("name", "num_ranks"), [("two, then three", 3), ("two, then one", 1)])
def test_sharded_state_is_gone_on_with_by_another_number_of_ranks(results, of_three, alone, folder, name, num_ranks):
    assert [exit for exit, _ in results[name]] == ["terminated"] * 2
    one = Training(f"{folder}/{name}", "parallel=fsdp2", resume="auto")
    found = one(0, 1) if num_ranks == 1 else of_three[name][0]
    assert found[0] == "finished"
    assert_close(found[1], alone)


def test_no_rank_writes_the_whole_of_a_sharded_model(results, folder):
    checkpoint = folder / "two, then one" / "run" / "checkpoints" / "000001-update-000003"
    parts = sorted(path.stat().st_size for path in (checkpoint / "parts").iterdir())
    assert len(parts) == 2
    assert (checkpoint / "model.safetensors").stat().st_size < parts[0]


def test_windows_over_the_end_of_an_epoch_keep_their_ranks(results, folder):
    assert results["carried"][0][0] == "terminated"
    refused = Training(f"{folder}/carried", "tail=carry", resume="auto")(0, 1)
    assert refused.startswith("UserError: ")
    assert "was made by 2 ranks with tail: carry" in refused


def test_another_effective_batch_is_refused(results, folder):
    refused = Training(f"{folder}/carried", "tail=carry", "effective_batch_size=60", resume="auto")
    assert "steps was 3 and is 6" in run_on_ranks(2, {"": refused})[""][0]


def test_a_full_disk_of_one_rank_stops_all_and_the_run_goes_on(results):
    for rank, (first, found) in enumerate(results["no room for a checkpoint"]):
        assert first.startswith("WriteError: ")
        assert "cannot be written: No space left on device" in first
        assert found == results["two"][rank][1]


@pytest.mark.parametrize("name", ["no room for one checkpoint", "no room for lines"])
def test_a_run_of_ranks_can_go_on_over_a_full_disk(results, name):
    assert results[name] == results["two"]


def test_ranks_that_see_no_common_directory_train_without_checkpoints(results, folder):
    path = folder / "unshared" / "run" / "checkpoints"
    line = f"No checkpoints are made: rank 1 does not see {path} of rank 0; let output be a directory that all "
    assert results["unshared"] == [("finished", [f"{line}machines share"], True)] * 2
    assert checkpoints_in(path) == []


@pytest.mark.slow
def test_torchrun_starts_again_after_a_killed_rank(tmp_path):
    ended = restarted(tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / MARK).exists()
    assert "Going on from runs/one/checkpoints/000001-update-000003, after update 3" in ended.stderr
    whole = tmp_path / "whole"
    whole.mkdir()
    assert run_on_ranks(2, {"": Immortal(whole)})[""] == [0, 0]
    assert files(tmp_path) == files(whole)
