"""Windows over several ranks against plain training on the whole batches of all ranks."""

import pytest
import torch
from rank_cases import (
    Exact,
    check_exact,
    divided_sum,
    replicate,
    sample_mean,
    shard,
    shard_whole,
    shard_with_replicas,
    skip_empty,
    split_terms,
    two_forwards,
)
from rank_faults import Drifting, Idle, Normed, Switched, double, turn
from spawning import run_on_ranks

from gradledger.ledger import balance_of
from gradledger.rules import judge


def finding_unused(model):
    return replicate(model, find_unused_parameters=True)


def with_views(model):
    return replicate(model, gradient_as_bucket_view=True)


def static(model):
    return replicate(model, static_graph=True)


def compiled_inside(model):
    return replicate(torch.compile(model, backend="eager"))


def compiled_shards(model):
    return torch.compile(shard_whole(model), backend="eager")


def compiled(model):
    return torch.compile(replicate(model), backend="eager")


def is_linear(module):
    return isinstance(module, torch.nn.Linear)


CASES = {
    "plain": Exact(),
    "clipped": Exact(clip_norm=0.05),
    "clipped by value": Exact(clip_value=0.01),
    "every": Exact(sync="every", clip_norm=0.05),
    "one micro-batch": Exact(steps=1),
    "late weights": Exact(late=True, clip_norm=0.05),
    "samples": Exact(loss_fn=sample_mean),
    "mostly ignored": Exact(ignored=0.9),
    "mostly ignored, no backward": Exact(ignored=0.9, step=skip_empty),
    "nan without weight": Exact(loss_fn=divided_sum, empty=True),
    "two terms": Exact(step=split_terms),
    "two forwards": Exact(step=two_forwards),
    "unused parameters": Exact(finding_unused, model=Switched),
    "buffers": Exact(model=Normed),
    "static graph": Exact(static, clip_norm=0.05),
    "static graph, every": Exact(static, sync="every", steps=1),
    "static graph, idle layer": Exact(static, model=Idle),
    "compiled": Exact(compiled),
    "compiled inside": Exact(compiled_inside),
    "checkpointed": Exact(checkpointing=is_linear, clip_norm=0.05),
    "sharded, checkpointed": Exact(shard, checkpointing=is_linear),
    "compiled by the accumulator": Exact(compile={"backend": "eager"}),
    "bucket views": Exact(with_views, clip_norm=0.05),
    "sharded": Exact(shard),
    "sharded whole": Exact(shard_whole, clip_norm=0.05),
    "sharded, clipped": Exact(shard, clip_norm=0.05),
    "sharded, clipped by value": Exact(shard, clip_value=0.01),
    "sharded, every": Exact(shard, sync="every", clip_norm=0.05),
    "sharded, late weights": Exact(shard, late=True),
    "sharded, mostly ignored": Exact(shard, ignored=0.9),
    "sharded, no backward": Exact(shard, ignored=0.9, step=skip_empty),
    "sharded, nan without weight": Exact(shard, loss_fn=divided_sum, empty=True),
    "sharded, two terms": Exact(shard, step=split_terms),
    "sharded with replicas": Exact(shard_with_replicas, clip_norm=0.05),
    "sharded and compiled": Exact(compiled_shards),
}
DRIFTING = {
    "doubled": Drifting(double),
    "turned": Drifting(turn),
    "later": Drifting(turn, update=4, compare_ranks_every=2),
    "between": Drifting(turn, update=3, compare_ranks_every=2),
    "never compared": Drifting(turn, compare_ranks_every=0),
}


@pytest.fixture(scope="module", params=[2, 3], ids=["two ranks", "three ranks"])
def results(request):
    return run_on_ranks(request.param, {**CASES, **DRIFTING})


@pytest.mark.parametrize("name", CASES)
def test_the_parameters_are_those_of_whole_batches(results, name):
    check_exact(results[name])


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in CASES
        if "static" not in name and name not in ("every", "two forwards") and "sharded" not in name
    ],
)
def test_a_window_has_one_reduction(results, name):
    for each in results[name]:
        assert set(each.num_reductions) == {1}


def test_a_static_graph_is_learnt_by_one_reduction_more(results):
    for name in ("static graph", "static graph, idle layer"):
        for each in results[name]:
            assert each.num_reductions == [2, 1, 1, 1, 1, 1]


def test_a_window_has_one_reduction_of_each_sharded_module(results):
    for each in results["sharded whole"]:
        assert set(each.num_reductions) == {1}
    for each in results["sharded"]:
        assert set(each.num_reductions) == {3}
    assert results["sharded, every"][0].num_reductions[:3] == [9, 9, 3]


@pytest.mark.parametrize("name", ["plain", "clipped", "sharded whole", "late weights"])
def test_each_rank_balances_by_itself(results, name):
    for each in results[name]:
        assert [finding for finding in judge(each.entries) if finding.severity != "info"] == []
        verdicts = [balance_of(window).verdict for window in each.entries.windows() if window.step is not None]
        assert set(verdicts) <= {"balanced", "unknown"}  # a repeated micro-batch has no weight to compare by
        assert each is not results[name][0] or set(verdicts) == {"balanced"}
        assert {entry.rank for entry in each.entries} == {results[name].index(each)}


def test_as_many_micro_batches_are_reduced_as_each_rank_has(results):
    assert results["every"][0].num_reductions[:3] == {2: [3, 2, 1], 3: [2, 1, 1]}[len(results["every"])]


def test_the_ledger_shows_reductions_and_windows_without_data(results):
    first, second = (each.ledger for each in results["plain"][:2])
    assert first == "( B B B R S Z B B B R S Z B R S Z ) ( B B B R S Z B B B R S Z B R S Z )"
    assert second == "( B B B R S Z B B R S Z B R S Z ) ( B B B R S Z B B R S Z B R S Z )"


@pytest.mark.parametrize("name", ["doubled", "turned", "later"])
def test_gradients_that_differ_between_ranks_are_noticed_by_all(results, name):
    which = "between ranks" if len(results[name]) == 2 else "on rank 1 from the others"
    for num_updates, error in results[name]:
        assert num_updates == DRIFTING[name].update
        assert error.startswith(f"UserError: the gradients differ {which} after the reduction (norms: rank 0 ")


def test_what_went_wrong_between_comparisons_shows_in_the_parameters(results):
    for num_updates, error in results["between"]:
        assert num_updates == 4
        assert error.startswith("UserError: the parameters differ ")
    assert [error for _, error in results["never compared"]] == [""] * len(results["never compared"])
