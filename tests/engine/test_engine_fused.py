"""Fused steps: what is switched on and what is left alone, and factors that ride along in the step."""

import pytest
import torch
from torch import nn

import gradledger
from engine.oracle import relative_distance, train_on_whole_batches
from gradledger import Accumulator, UserError
from gradledger.engine import gradients

KINDS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
    "adam": (torch.optim.Adam, {"lr": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "amsgrad": True}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.05}),
}


def make(dtype=torch.float32):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def windows_of(dtype=torch.float32):
    generator = torch.Generator().manual_seed(4)
    sizes = ((4, 1, 3), (2, 5, 4), (3, 3))
    return [
        [
            (torch.randn(n, 5, generator=generator).to(dtype), torch.randint(3, (n,), generator=generator))
            for n in window
        ]
        for window in sizes
    ] * 3


def loss_fn(model, inputs, labels):
    return nn.functional.cross_entropy(model(inputs), labels)


def train(accumulator, windows, *, late):
    for micro_batches in windows:
        for window in accumulator.windows(micro_batches, steps=len(micro_batches)):
            with window:
                for inputs, labels in window:
                    weight = len(labels) if late else None
                    window.backward(loss_fn(accumulator.model, inputs, labels), weight=weight)


@pytest.mark.parametrize("late", [False, True], ids=["ahead", "late"])
@pytest.mark.parametrize("clip_norm", [None, 0.05], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("kind", KINDS)
def test_factors_that_ride_along_make_the_whole_batch_step(kind, clip_norm, late, monkeypatch):
    optimizer_type, options = KINDS[kind]
    passes = []
    multiply = gradients.scale_gradients
    monkeypatch.setattr(gradients, "scale_gradients", lambda *args: (passes.append(1), multiply(*args)))
    model = make()
    accumulator = Accumulator(model, optimizer_type(model.parameters(), **options), clip_norm=clip_norm)
    train(accumulator, windows_of(), late=late)
    assert not passes
    whole = make()
    train_on_whole_batches(
        whole, optimizer_type(whole.parameters(), **options), windows_of(), loss_fn, clip_norm=clip_norm
    )
    assert relative_distance(model, whole) < 2e-6
    assert relative_distance(make(), whole) > 0.005


@pytest.mark.parametrize("kind", KINDS)
def test_in_float64_nothing_is_rounded_to_a_float32_factor(kind):
    optimizer_type, options = KINDS[kind]
    model, whole = make(torch.float64), make(torch.float64)
    accumulator = Accumulator(model, optimizer_type(model.parameters(), **options), clip_norm=0.05)
    assert all(group["fused"] for group in accumulator.optimizer.param_groups)
    train(accumulator, windows_of(torch.float64), late=True)
    oracle = optimizer_type(whole.parameters(), **options)
    train_on_whole_batches(whole, oracle, windows_of(torch.float64), loss_fn, clip_norm=0.05)
    assert relative_distance(model, whole) < 1e-12


def test_a_hook_of_the_users_sees_the_gradient_that_is_stepped_with():
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    accumulator = Accumulator(model, optimizer, clip_norm=0.05)
    seen = []

    def look(*_):
        seen.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item())

    optimizer.register_step_pre_hook(look)
    train(accumulator, windows_of()[:2], late=True)
    assert seen == pytest.approx([0.05, 0.05], rel=1e-3)


@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"fused": False}, {"differentiable": True}])
def test_a_choice_that_was_made_is_kept(options):
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), **options)
    before = [dict(group) for group in optimizer.param_groups]
    Accumulator(model, optimizer)
    assert [dict(group) for group in optimizer.param_groups] == before
    optimizer = torch.optim.Adam(model.parameters())
    Accumulator(model, optimizer, fused=False)
    assert optimizer.param_groups[0]["fused"] is None


def test_a_fused_optimizer_takes_an_ordinary_step_after_a_scaled_one():
    model, plain = make(), make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(Accumulator(model, optimizer, clip_norm=0.01), windows_of()[:1], late=True)
    plain.load_state_dict(model.state_dict())
    other = torch.optim.SGD(plain.parameters(), lr=0.1)
    for each, its_optimizer in ((model, optimizer), (plain, other)):
        loss_fn(each, *windows_of()[0][0]).backward()
        its_optimizer.step()
    assert relative_distance(model, plain) < 1e-7


class Late(nn.Module):
    """Its second layer is first used, and gets its first gradient, in the third forward."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.first, self.second = nn.Linear(5, 3), nn.Linear(5, 3)
        self.num_forwards = 0

    def forward(self, inputs):
        self.num_forwards += 1
        return self.first(inputs) + (self.second(inputs) if self.num_forwards > 2 else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_may_get_its_first_gradient_later(kind):
    optimizer_type, options = KINDS[kind]
    windows = [[window[0]] for window in windows_of()]
    model, whole = Late(), Late()
    train(Accumulator(model, optimizer_type(model.parameters(), **options), clip_norm=0.1), windows, late=False)
    train_on_whole_batches(whole, optimizer_type(whole.parameters(), **options), windows, loss_fn, clip_norm=0.1)
    assert relative_distance(model, whole) < 2e-6


def test_what_cannot_be_fused_is_named():
    model = make()
    with pytest.raises(UserError, match=r"fused=True is not possible: torch has no fused RMSprop for this device"):
        Accumulator(model, torch.optim.RMSprop(model.parameters()), fused=True)
    with pytest.raises(UserError, match="the optimizer is differentiable, or its learning rate a tensor"):
        Accumulator(model, torch.optim.Adam(model.parameters(), lr=torch.tensor(0.1)), fused=True)
    embedding = nn.Embedding(4, 3, sparse=True)
    with pytest.raises(UserError, match="a module's gradients are sparse"):
        Accumulator(embedding, torch.optim.SGD(embedding.parameters()), fused=True)
    on_meta = nn.Linear(2, 2, device="meta")
    with pytest.raises(UserError, match="the parameters are on meta"):
        Accumulator(on_meta, torch.optim.SGD(on_meta.parameters()), fused=True)


@pytest.mark.parametrize("clip_norm", [None, 0.3])
def test_sparse_gradients_are_left_to_the_other_implementation(clip_norm):
    embedding = nn.Embedding(6, 3, sparse=True)
    before = embedding.weight.detach().clone()
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.5)
    accumulator = gradledger.Accumulator(embedding, optimizer, clip_norm=clip_norm)
    rows = torch.tensor([0, 2, 2, 5])  # row 2 twice: its two parts must be added before the norm is taken
    update = accumulator.update(rows, lambda model, batch: model(batch).sum(1).mean(), micro_batch_size=3)
    gradient = torch.zeros(6, 3)
    for row in rows:
        gradient[row] += 1 / len(rows)
    assert update.grad_norm == pytest.approx(gradient.norm().item())
    factor = 1.0 if clip_norm is None else clip_norm / gradient.norm().item()
    torch.testing.assert_close(embedding.weight.detach(), before - 0.5 * factor * gradient)
