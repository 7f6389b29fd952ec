"""What is read from a loss's graph, and what is left alone there."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy, linear, mse_loss

import gradledger

ROWS = torch.arange(8)


def recorded(make_loss, **options):
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with gradledger.audit() as auditor:
        make_loss(layer).backward(**options)
        optimizer.step()
    return next(entry for entry in auditor.ledger if entry.letter == "B")


def test_what_is_packed_is_unpacked_by_nobody_but_the_backward():
    unpacked = []

    def loss_of(layer):
        with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: unpacked.append(tensor) or tensor):
            return mse_loss(layer(torch.ones(2, 3)), torch.ones(2, 4))

    loss_of(torch.nn.Linear(3, 4)).backward()
    num_alone = len(unpacked)
    unpacked.clear()
    entry = recorded(loss_of)
    assert len(unpacked) == num_alone > 0
    assert (entry.reduction, entry.weight) == ("mean", None)


def test_what_a_backward_has_freed_is_unknown():
    def loss_of(layer):
        hidden = layer(torch.ones(2, 3))
        hidden.square().mean().backward()
        layer.zero_grad()
        return mse_loss(torch.ones(2, 4) * hidden, torch.ones(2, 4))

    with pytest.raises(RuntimeError, match="second time"):  # torch's own words, not the auditor's
        recorded(lambda layer: loss_of(layer) / 4)


def test_a_loss_that_is_maximised_has_the_scale_of_its_size():
    assert recorded(lambda layer: layer(torch.ones(2, 3)).mean(), gradient=torch.tensor(-0.25)).scale == 0.25
    assert recorded(lambda layer: layer(torch.ones(2, 3)).mean() * -0.5).scale == 0.5


def fresh_rows(layer):
    return layer(torch.ones(4, 3))


def joined(layer):
    return torch.cat([fresh_rows(layer), torch.randn(4, 4)])


def written(layer):
    cache = torch.randn(8, 4)
    cache[2:6] = fresh_rows(layer)
    return cache


def put(layer):
    return torch.randn(8, 4).index_put((torch.arange(4),), fresh_rows(layer))


@pytest.mark.parametrize("features", [joined, written, put])
def test_a_loss_over_a_cache_of_the_window_is_left_open(features):
    def contrastive(layer):
        rows = features(layer)
        return cross_entropy(rows @ rows.T, ROWS)

    def pairwise(layer):
        return torch.sigmoid(features(layer) @ torch.randn(4)).mean()

    for loss_of in (contrastive, pairwise):
        entry = recorded(loss_of)
        assert (entry.reduction, entry.coupled) == (None, None)


def all_fresh(layer):
    return torch.cat([fresh_rows(layer), fresh_rows(layer)])


def other_width(layer):
    return torch.cat([layer(torch.ones(8, 3)), torch.randn(8, 2)], dim=1)


def buffer_of_outputs(layer):
    outputs = torch.zeros(8, 4)
    for position in range(0, 8, 4):
        outputs[position : position + 4] = fresh_rows(layer)
    return outputs


@pytest.mark.parametrize("features", [all_fresh, other_width, buffer_of_outputs])
def test_other_joins_are_no_cache(features):
    entry = recorded(lambda layer: features(layer).square().mean())
    assert entry.reduction == "mean"


def test_a_cache_is_seen_behind_layers_that_are_fed_with_many_rows_a_sample():
    def loss_of(layer):
        patches = linear(layer(torch.ones(4, 9, 3)), torch.ones(4, 4)).mean(1)
        rows = torch.cat([patches, torch.randn(4, 4)])
        return cross_entropy(rows @ rows.T, ROWS)

    assert recorded(loss_of).coupled is None


def test_a_parameter_with_a_hook_of_its_own_is_not_unowned():
    layer, owned = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(owned.parameters(), lr=0.1)
    for parameter in layer.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: None)
    with gradledger.audit() as auditor:
        for _ in range(3):
            optimizer.zero_grad()
            owned(layer(torch.ones(2, 3))).mean().backward()
            optimizer.step()
    assert auditor.findings == []
