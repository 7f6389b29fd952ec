"""Four ranks: what two and three do, and models of which two ranks hold each copy."""

import pytest
from rank_cases import (
    Exact,
    check_exact,
    divided_sum,
    shard,
    shard_whole,
    shard_with_replicas,
    skip_empty,
    split_terms,
)
from rank_faults import Costs, Drifting, turn
from spawning import run_on_ranks

CASES = {
    "clipped": Exact(clip_norm=0.05),
    "every": Exact(sync="every"),
    "late weights": Exact(late=True, clip_norm=0.05),
    "mostly ignored, no backward": Exact(ignored=0.9, step=skip_empty),
    "nan without weight": Exact(loss_fn=divided_sum, empty=True),
    "two terms": Exact(step=split_terms),
    "sharded": Exact(shard, clip_norm=0.05),
    "sharded whole": Exact(shard_whole),
    "sharded, nan without weight": Exact(shard, loss_fn=divided_sum, empty=True),
    "copies": Exact(shard_with_replicas, clip_norm=0.05),
    "copies, every": Exact(shard_with_replicas, sync="every"),
}


@pytest.fixture(scope="module")
def results():
    drifting = Drifting(turn, wrap=shard_with_replicas)
    return run_on_ranks(4, {**CASES, "drifting": drifting, "costs": Costs()})


@pytest.mark.parametrize("name", CASES)
def test_the_parameters_are_those_of_whole_batches(results, name):
    check_exact(results[name])


@pytest.mark.parametrize("name", ["clipped", "late weights", "sharded whole", "copies"])
def test_a_window_has_one_reduction(results, name):
    for each in results[name]:
        assert set(each.num_reductions) == {1}


def test_a_window_has_one_reduction_between_copies(results):
    for each in results["copies"]:
        assert set(each.num_between_copies) == {1}
    for each in results["copies, every"]:
        assert each.num_between_copies == each.num_reductions == [3, 3, 1] * 2


def test_copies_that_differ_are_named(results):
    for _, error in results["drifting"]:
        assert "the gradients differ between ranks after the reduction (norms: rank 1 " in error
        assert ", rank 3 " in error


def test_what_is_held_until_the_reduction_is_what_was_stated(results):
    for costs in results["costs"]:
        assert all(stated == held for _, stated, held in costs.values()), costs
        assert costs["ddp, last"][1] == costs["fsdp2, every"][1] == 0 < costs["hsdp, last"][1] < costs["fsdp2, last"][1]
    assert costs["hsdp, last"][0].startswith(
        "sync='last': one reduce-scatter and all-reduce a window, each of 4 ranks "
    )
