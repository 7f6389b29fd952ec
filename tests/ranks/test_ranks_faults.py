"""Every rank takes the same decision when one of them fails, leaves or is not finite."""

import math

import pytest
import torch
from rank_cases import shard
from rank_faults import (
    AfterTheUpdate,
    AroundTheWrapper,
    BySamples,
    FailingLoader,
    Fault,
    NoData,
    Refused,
    Update,
    do_nothing,
    exit_early,
    leave,
    leave_after_backward,
    make_nan,
    press_ctrl_c,
    raise_error,
)
from rank_memory import FittingSize, OutOfMemory
from spawning import run_on_ranks

CASES = {
    "error": Fault(raise_error, position=1),
    "error at the end": Fault(raise_error, position=3),
    "exit": Fault(exit_early, position=1),
    "ctrl-c": Fault(press_ctrl_c, position=1),
    "hook": AfterTheUpdate("hook"),
    "step": AfterTheUpdate("step"),
    "leaves": Fault(leave, position=0),
    "nan": Fault(make_nan, position=1),
    "nan in the last": Fault(make_nan, position=2),
    "nan skipped": Fault(make_nan, position=1, non_finite="skip-update"),
    "sharded error": Fault(raise_error, position=3, wrap=shard),
    "sharded leaves": Fault(leave_after_backward, position=1, wrap=shard),
    "sharded leaves too late": Fault(leave, position=1, wrap=shard, everywhere=True),
    "sharded nan": Fault(make_nan, position=1, wrap=shard),
    "sharded nan skipped": Fault(make_nan, position=1, wrap=shard, non_finite="skip-update"),
    "no backward": Fault(do_nothing, position=2),
    "all leave": Fault(leave, position=1, everywhere=True),
    "all fail before the reduction": Fault(raise_error, position=2, everywhere=True),
    "refused": Refused(),
    "around": AroundTheWrapper(),
    "update": Update(),
    "by samples": BySamples(),
    "no data": NoData(),
    "failing loader": FailingLoader(OSError("bad sector")),
    "interrupted loader": FailingLoader(KeyboardInterrupt()),
}
OUT_OF_MEMORY = {
    **{f"forward {call}": OutOfMemory("forward", call) for call in (0, 2, 5)},
    **{f"backward {call}": OutOfMemory("backward", call) for call in (0, 4)},
    "forward 2, stateful": OutOfMemory("forward", 2, is_stateful=True),
    "forward 4, stateful": OutOfMemory("forward", 4, is_stateful=True),
    "backward 1, stateful": OutOfMemory("backward", 1, is_stateful=True),
    "forward 1, every": OutOfMemory("forward", 1, sync="every"),
    "loss 5": OutOfMemory("loss", 5),
    "loss 2, stateful": OutOfMemory("loss", 2, is_stateful=True),
}


@pytest.fixture(scope="module")
def results():
    return run_on_ranks(2, {**CASES, **OUT_OF_MEMORY, "auto": OutOfMemory("", -2, size="auto"), "size": FittingSize()})


def check_same(seen):
    assert all(not isinstance(each, str) for each in seen), seen
    assert torch.equal(seen[0]["parameters"], seen[1]["parameters"])
    assert math.isfinite(seen[0]["parameters"].sum())


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if isinstance(case, Fault) and case.fault is not do_nothing]
)
def test_what_was_given_up_leaves_no_trace(results, name):
    assert max(each["distance"] for each in results[name]) < 1e-12


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("error", "ValueError: disk on fire"),
        ("error at the end", "ValueError: disk on fire"),
        ("sharded error", "ValueError: disk on fire"),
        ("exit", "SystemExit: 3"),
        ("ctrl-c", "KeyboardInterrupt: "),
    ],
)
def test_an_error_on_one_rank_voids_the_window_on_all(results, name, error):
    seen = results[name]
    check_same(seen)
    assert all(each["unchanged"] and each["num_updates"] == 1 for each in seen)
    assert seen[1]["error"] == error
    assert seen[0]["error"].startswith("RankError: ")
    assert f"rank 1 failed with {error.removesuffix(': ')}; all ranks end here" in seen[0]["error"]


@pytest.mark.parametrize(("name", "num_updates"), [("hook", (2, 2)), ("step", (2, 1))])
def test_an_error_after_the_reduction_is_told_at_the_next_window(results, name, num_updates):
    (told, told_updates), (own, own_updates) = results[name]
    assert (told_updates, own_updates) == num_updates
    assert own == "ValueError: disk on fire"
    assert told.startswith("RankError: at the start of a window, rank 1 failed with ValueError: disk on fire")


@pytest.mark.parametrize("name", OUT_OF_MEMORY)
def test_a_rank_that_runs_out_of_memory_goes_on_in_smaller_micro_batches(results, name):
    first, second = results[name]
    assert max(first["distance"], second["distance"]) < 1e-12
    assert first["nums"] == [3, 3, 3]
    assert second["happened"]
    assert second["nums"][-1] == 6


def test_each_rank_measures_the_size_of_its_own_micro_batches(results):
    assert all(each["distance"] < 1e-12 for each in results["auto"]), results["auto"]


def test_a_size_for_a_loop_is_the_smallest_of_the_ranks(results):
    first, second = results["size"]  # of 2 and of 3 samples
    assert first == second <= 2


@pytest.mark.parametrize("name", ["leaves", "all leave", "sharded leaves"])
def test_a_window_that_one_rank_leaves_is_void_on_all(results, name):
    check_same(results[name])
    for each in results[name]:
        assert each["error"] == ""
        assert each["voided"] == [False, True]
        assert each["num_updates"] == 1


@pytest.mark.parametrize(("name", "position"), [("nan", 1), ("nan in the last", 2), ("sharded nan", 1)])
def test_all_ranks_raise_where_one_is_not_finite(results, name, position):
    check_same(results[name])
    for each in results[name]:
        assert each["error"].startswith(f"NonFiniteError: on rank 1 the loss of micro-batch {position}")
        assert each["unchanged"]
        assert each["num_updates"] == 1


@pytest.mark.parametrize("name", ["nan skipped", "sharded nan skipped"])
def test_all_ranks_skip_where_one_is_not_finite(results, name):
    check_same(results[name])
    for each in results[name]:
        assert each["skipped"] == [None, "the gradient was not finite"]
        assert each["num_updates"] == 1


def test_a_micro_batch_without_backward_does_not_hold_the_others_up(results):
    check_same(results["no backward"])
    assert [each["num_updates"] for each in results["no backward"]] == [2, 2]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("unwrapped", "nothing in the model reduces gradients over them"),
        ("wrapped alone", "sync='none' is for models that each rank trains alone"),
        ("sync", "sync='often': choose one of"),
        ("comparison", "compare_ranks_every=-1 must be a whole number of updates"),
        ("half owned", "reduced over ranks, but the optimizer does not own them"),
        ("stray", "the optimizer owns 1 parameters that are not reduced over ranks"),
        ("closure", "LBFGS, which evaluates the loss again, is not supported over 2 ranks"),
        ("offload", "offload='cpu' (a sharded model has torch's CPUOffloadPolicy) is not supported over 2 ranks"),
        ("drop", "non_finite='drop-micro-batch' is not supported over 2 ranks"),
        ("coupled", "update_coupled is not exact over several ranks"),
        ("auto", "micro-batches can be measured only where the model itself is in DistributedDataParallel"),
        ("share", "effective_batch_size=5 cannot be shared out evenly over 2 ranks"),
    ],
)
def test_what_is_not_exact_is_refused(results, what, message):
    for refused in results["refused"]:
        assert refused[what].startswith("UserError: ")
        assert message in refused[what]


def test_an_update_is_that_of_all_ranks_parts(results):
    assert all(max(each) < 1e-12 for each in results["update"]), results["update"]


def test_an_effective_batch_is_shared_out_over_ranks(results):
    assert results["by samples"] == [[6.0, 6.0], [6.0, 6.0]]


def test_ranks_may_train_models_of_their_own(results):
    assert [refused["alone"] for refused in results["refused"]] == ["", ""]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("around", "the loss was not computed through the model that reduces gradients over ranks"),
        ("no data", "rank 1 has never had a micro-batch"),
    ],
)
def test_a_mistake_is_named_on_every_rank(results, name, message):
    for error in results[name]:
        assert message in error


def test_a_micro_batch_that_others_wait_for_cannot_be_left_quietly(results):
    for rank, each in enumerate(results["sharded leaves too late"]):
        assert f"rank {rank} left its window in micro-batch 1, for which other ranks wait" in each["error"]


def test_a_reduction_that_no_rank_begins_can_be_given_up(results):
    check_same(results["all fail before the reduction"])
    assert {each["error"] for each in results["all fail before the reduction"]} == {"ValueError: disk on fire"}


def test_a_loader_that_fails_ends_the_pass_on_all_ranks(results):
    first, second = results["failing loader"]
    assert "rank 1 failed with OSError: bad sector" in first
    assert second == "OSError: bad sector"
    first, second = results["interrupted loader"]
    assert "rank 1 failed with KeyboardInterrupt" in first
    assert second == "KeyboardInterrupt: "
