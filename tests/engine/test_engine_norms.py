"""Running statistics that move once per window."""

import pytest
import torch
from torch import nn

from gradledger import Accumulator, UserError


def make(momentum=0.1):
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(3, momentum=momentum), nn.Flatten(), nn.Linear(48, 2)).double()


def run(model, batch, **settings):
    accumulator = Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.0), batch_norm="pooled", **settings)
    for _ in range(3):
        accumulator.update(batch, lambda m, x: m(x).square().mean(), micro_batch_size=4)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_pooled_statistics_are_the_whole_batchs(momentum):
    ours, theirs = make(momentum), make(momentum)
    batch = torch.randn(11, 3, 4, 4, dtype=torch.float64) * 3 + 100
    run(ours, batch)
    for _ in range(3):
        theirs(batch)
    for name, buffer in ours[0].named_buffers():
        torch.testing.assert_close(buffer, theirs[0].get_buffer(name), rtol=1e-12, atol=0)
    assert not ours[0]._forward_hooks


def test_without_pooling_they_move_with_each_micro_batch():
    model = make()
    accumulator = Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.0))
    accumulator.update(torch.randn(11, 3, 4, 4).double(), lambda m, x: m(x).square().mean(), micro_batch_size=4)
    assert model[0].num_batches_tracked.item() == 3


def test_a_void_window_moves_nothing():
    model = make()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    accumulator = Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.0), batch_norm="pooled")
    calls = []

    def failing(m, x):
        calls.append(1)
        loss = m(x).square().mean()
        if len(calls) == 2:
            raise ArithmeticError
        return loss

    with pytest.raises(ArithmeticError):
        accumulator.update(torch.randn(11, 3, 4, 4).double(), failing, micro_batch_size=4)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert (model[0].momentum, model[0]._forward_hooks) == (0.1, {})


def test_evaluation_mode_is_left_alone():
    model = make().eval()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    run(model, torch.randn(11, 3, 4, 4).double())
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_mistakes_are_named():
    model = nn.Linear(2, 2)
    with pytest.raises(UserError, match="the model has no BatchNorm layer"):
        Accumulator(model, torch.optim.SGD(model.parameters()), batch_norm="pooled")
    with pytest.raises(UserError, match="batch_norm='frozen': choose one of 'micro-batch', 'pooled'"):
        Accumulator(model, torch.optim.SGD(model.parameters()), batch_norm="frozen")
