"""What verify promises besides the cause: the user's model untouched, tolerances derived, mistakes named."""

import copy
import json
import random

import numpy
import pytest
import torch
from torch import nn

from gradledger import UserError, verify, verify_step
from gradledger.verifier.float64 import in_float64
from gradledger.verifier.pinning import Layout, PinnedCalls, RandomCalls, layouts_of
from verifier.seeded_faults import FAULTS, STEP_FAULTS, batch, classifier, mean_loss


def state_of(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [(module, module.training, len(module._forward_hooks)) for module in model.modules()],
        [(p, p.grad, None if p.grad is None else p.grad.clone(), p.requires_grad) for p in model.parameters()],
        (torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_default_dtype()),
    )


def assert_unchanged(model, state):
    values, modes, gradients, generators = state
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert modes == [(module, module.training, len(module._forward_hooks)) for module in model.modules()]
    for parameter, gradient, value, requires_grad in gradients:
        assert parameter.grad is gradient
        assert value is None or torch.equal(parameter.grad, value)
        assert parameter.requires_grad == requires_grad
    assert torch.equal(generators[0], torch.get_rng_state())
    assert generators[1:] == (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_default_dtype())


@pytest.mark.parametrize("name", ["batch_norm", "info_nce", "memory_queue", "masks_from_pythons_generator"])
def test_the_users_model_is_never_changed(name):
    model, loss_fn, data = FAULTS[name].make()
    model.add_module("extra", nn.Dropout(0.1).eval())
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    list(model.parameters())[-1].requires_grad_(False)
    state, data_before = state_of(model), copy.deepcopy(data)
    verify(model, loss_fn, data, micro_batch_size=4)
    assert_unchanged(model, state)
    assert all(torch.equal(a, b) for a, b in zip(data, data_before, strict=True))


def test_the_users_model_and_optimizer_are_never_changed_by_a_step():
    model = classifier(nn.BatchNorm1d(8), nn.Dropout(0.2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    mean_loss(model, batch()).backward()
    optimizer.step()
    state, optimizer_state = state_of(model), copy.deepcopy(optimizer.state_dict())
    verify_step(
        STEP_FAULTS["never_divided"].step_fn, model, mean_loss, batch(32), micro_batch_size=4, optimizer=optimizer
    )
    assert_unchanged(model, state)
    torch.testing.assert_close(optimizer.state_dict(), optimizer_state, rtol=0, atol=0)


def test_a_loss_that_uses_another_model_than_its_argument_is_refused_and_the_model_put_back():
    model = classifier()
    mean_loss(model, batch()).backward()
    state = state_of(model)
    with pytest.raises(UserError, match=r"does not depend on|reached no parameter of the model that loss_fn was given"):
        verify(model, lambda _, b: mean_loss(model, b), batch(), micro_batch_size=4)
    assert_unchanged(model, (state[0], state[1], [], state[3]))
    assert all(torch.equal(p.grad, g[2]) for p, g in zip(model.parameters(), state[2], strict=True))


def test_a_loss_that_changes_the_model_is_refused():
    model = classifier()

    def loss_fn(given, b):
        with torch.no_grad():
            model[0].weight.mul_(0.5)
        return mean_loss(given, b)

    before = model[0].weight.clone()
    with pytest.raises(UserError, match="loss_fn changed the model itself"):
        verify(model, loss_fn, batch(), micro_batch_size=4)
    assert torch.equal(model[0].weight, before)


def test_tolerances_come_from_the_whole_batchs_own_error():
    result = verify(classifier(), mean_loss, batch(), micro_batch_size=4)
    assert result.is_exact
    for parameter in result.parameters:
        assert 0 < parameter.whole_error < parameter.tolerance < 1e-5
        assert 0 <= parameter.error_exact < parameter.tolerance_exact < 1e-13
    lower = verify(classifier().bfloat16(), mean_loss, _to(batch(), torch.bfloat16), micro_batch_size=4)
    assert lower.is_exact
    assert lower.precision == "bfloat16"
    assert min(p.tolerance for p in lower.parameters) > 1e-3


def _to(data, dtype):
    return tuple(leaf.to(dtype) if leaf.is_floating_point() else leaf for leaf in data)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision(precision):
    assert verify(classifier(), mean_loss, batch(), micro_batch_size=4, precision=precision).is_exact
    assert not verify(
        classifier(), lambda m, b: 4 * mean_loss(m, b) * len(b[0]), batch(), micro_batch_size=4, precision=precision
    ).is_exact


def test_float32_accumulation_repairs_bfloat16():
    model, loss_fn, inputs = FAULTS["bfloat16_over_many_micro_batches"].make()
    options = {"micro_batch_size": 1, "precision": "bf16-true"}
    assert not verify(model, loss_fn, inputs, **options).is_exact
    assert verify(model, loss_fn, inputs, accumulate_dtype=torch.float32, **options).is_exact


def test_terms_with_denominators_of_their_own():
    inputs, labels = batch()
    labels[[1, 4, 5]] = -100

    def loss_fn(model, b):
        output = model(b[0])
        terms = {"tokens": nn.functional.cross_entropy(output, b[1]), "samples": output.square().sum(1).mean()}
        return terms | {"window": 0.1 * sum(p.square().sum() for p in model.parameters())}

    weight = {"tokens": lambda b: (b[1] != -100).sum(), "samples": lambda b: len(b[0])}
    assert verify(classifier(), loss_fn, (inputs, labels), micro_batch_size=4, weight=weight).is_exact
    swapped = {"tokens": weight["samples"], "samples": weight["samples"]}
    result = verify(classifier(), loss_fn, (inputs, labels), micro_batch_size=4, weight=swapped)
    assert (result.verdict, result.cause.slug) == ("not exact", "wrong-denominator")
    assert "elements of batch[1] that are not -100" in result.cause.message


class _SequenceFirst(nn.Module):
    """Attention with (time, batch, width): dropout masks with the samples in their second dimension."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.layer(x.transpose(0, 1)).mean(0))


def test_dropout_is_pinned_to_samples_wherever_they_are():
    torch.manual_seed(0)
    result = verify(_SequenceFirst(), lambda m, x: m(x).square().mean(), torch.randn(10, 5, 8), micro_batch_size=4)
    assert result.is_exact
    assert any("random calls (dropout) were pinned to samples" in note for note in result.notes)


def test_pinned_masks_are_those_of_the_sample():
    x = torch.ones(6, 3)
    layouts = [Layout(0), Layout(None), Layout(0, 2)]

    def draw(first, n):
        with PinnedCalls(layouts, seed=5, first_sample=first, num_samples=n):
            return nn.functional.dropout(x[:n], 0.5), torch.rand(3), torch.randn(2 * n, 2)

    whole, tail = draw(0, 6), draw(4, 2)
    assert torch.equal(whole[0][4:], tail[0])
    assert torch.equal(whole[1], tail[1])
    assert torch.equal(whole[2][8:], tail[2])
    assert not torch.equal(whole[0][:2], tail[0])
    assert len(set(map(tuple, whole[0].tolist()))) > 1


def test_layouts_are_refused_where_they_are_unclear():
    assert layouts_of([(8, 3), (3,)], [(2, 3), (3,)], 8, 2) == [Layout(0), Layout(None)]
    assert layouts_of([(8, 3)], [(2, 2)], 8, 2) is None
    assert layouts_of([(8, 3)], [(3, 3)], 8, 2) is None
    assert layouts_of([None], [None], 8, 2) is None
    assert layouts_of([(8,)], [], 8, 2) is None


def test_attention_without_dropout_draws_nothing():
    query = torch.randn(2, 1, 3, 4)
    with RandomCalls() as calls:
        nn.functional.scaled_dot_product_attention(query, query, query)
    assert calls.shapes == []


def test_code_written_for_float32_runs_in_float64():
    class Norm(nn.Module):
        def forward(self, x):
            wide = x.float()
            return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True).to(torch.float32) + 1e-6)).type_as(x)

    table = torch.linspace(-1, 1, 8)
    with in_float64():
        assert (Norm()(torch.randn(3, 8)) * table + torch.zeros(8)).dtype == torch.float64
    assert verify(
        classifier(Norm()), lambda m, b: (m(b[0]).float().softmax(-1, dtype=torch.float32) * table[:3]).sum(1).mean(),
        batch(), micro_batch_size=4,
    ).is_exact  # fmt: skip


class _Kernel(torch.autograd.Function):
    """Written for some types only, as hand-made kernels are."""

    @staticmethod
    def forward(ctx, x, types):
        if x.dtype not in types:
            raise TypeError(f"this kernel does not take {x.dtype}")
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2, None


def test_a_model_that_does_not_run_in_float64_is_judged_in_float32():
    def loss_fn(model, b, reduction="mean"):
        logits = _Kernel.apply(model(b[0]), (torch.float32, torch.bfloat16))
        return nn.functional.cross_entropy(logits, b[1], reduction=reduction)

    result = verify(classifier(nn.Dropout(0.2)), loss_fn, batch(), micro_batch_size=4)
    assert (result.verdict, result.exact_type) == ("exact", "float32"), str(result)
    assert "judged in float32, because the model does not run in float64" in result.notes[0]
    assert "this kernel does not take torch.float64" in result.notes[0]
    wrong = verify(classifier(), lambda m, b: loss_fn(m, b, "sum"), batch(8), micro_batch_size=2)
    assert (wrong.cause.slug, wrong.cause.factor) == ("wrong-scale", pytest.approx(0.25, rel=1e-3))
    coupled = verify(classifier(nn.BatchNorm1d(8)), loss_fn, batch(), micro_batch_size=4)
    assert (coupled.cause.slug, coupled.cause.where) == ("coupled-layer", "1")


def test_a_loop_over_such_a_model_is_judged_in_float32_too():
    def loss_fn(model, b):
        return nn.functional.cross_entropy(_Kernel.apply(model(b[0]), (torch.float32, torch.bfloat16)), b[1])

    def step_fn(model, optimizer, micro_batches):
        optimizer.zero_grad()
        for b in micro_batches:
            (loss_fn(model, b) / divisor).backward()
        optimizer.step()

    divisor = 8
    assert verify_step(step_fn, classifier(), loss_fn, batch(32), micro_batch_size=4).is_exact
    divisor = 4
    result = verify_step(step_fn, classifier(), loss_fn, batch(32), micro_batch_size=4)
    assert (result.exact_type, result.cause.factor) == ("float32", pytest.approx(2, rel=1e-3))


def test_a_model_that_runs_in_one_type_only_is_not_comparable():
    loss_fn = lambda m, b: _Kernel.apply(m(b[0]), (torch.float32,)).square().mean()  # noqa: E731
    result = verify(classifier(), loss_fn, batch(), micro_batch_size=4)
    assert (result.verdict, result.cause.slug) == ("not comparable", "no-float64")
    assert "this kernel does not take torch.float64" in result.cause.message


def test_a_parameter_without_a_gradient_of_its_own_is_exact():
    """A bias before a softmax over it has a gradient of zero but for rounding, so its relative error means nothing."""
    torch.manual_seed(0)
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    result = verify(model, lambda m, x: m(x, x, x)[0].square().mean(), torch.randn(9, 5, 8), micro_batch_size=4)
    assert result.is_exact, str(result)


def test_it_reads_well():
    model, loss_fn, data = FAULTS["batch_norm"].make()
    text = str(verify(model, loss_fn, data, micro_batch_size=4))
    assert text.startswith("not exact: gradient, 3 micro-batches against the whole batch, in float32")
    assert "cause  coupled-layer: '1' (BatchNorm1d) gives a sample another output" in text
    assert "note   buffers move with every forward, so 3 times per update instead of once: 1.running_mean" in text
    assert all(f"{name} " in text for name, _ in model.named_parameters())


def test_its_json_is_plain():
    model, loss_fn, data = FAULTS["sum_taken_for_a_mean"].make()
    plain = json.loads(json.dumps(verify(model, loss_fn, data, micro_batch_size=2).to_json()))
    assert (plain["version"], plain["verdict"], plain["cause"]["factor"]) == (1, "not exact", pytest.approx(0.25))
    assert {p["name"] for p in plain["parameters"]} == {name for name, _ in model.named_parameters()}
    assert not any(p["is_exact"] for p in plain["parameters"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"micro_batch_size": 11}, "makes one micro-batch of the batch's 11 samples: there is nothing to compare"),
        ({"micro_batch_size": 0}, "micro_batch_size=0 must be a whole number"),
        ({"loss_fn": None}, "loss_fn must be callable"),
        ({"model": 3}, "model must be a torch Module, not int"),
        ({"loss_fn": lambda m, b: m(b[0])}, "must return a scalar loss, not a tensor of shape \\(11, 3\\)"),
        ({"loss_fn": lambda m, b: 1.0}, "must return a scalar loss, not a float"),
        ({"loss_fn": lambda m, b: m(b[0]).sum().detach()}, "needs no gradient"),
        ({"loss_fn": lambda m, b: m(b[9])}, "loss_fn fails: IndexError: "),
        ({"loss_fn": lambda m, b: m(b[0]).sum() / 0}, "is not finite: there is nothing to compare with"),
        ({"precision": "32"}, "precision='32': choose one of"),
    ],
)
def test_mistakes_are_named(change, message):
    given = {"model": classifier(), "loss_fn": mean_loss, "batch": batch(), "micro_batch_size": 4} | change
    model, loss_fn, data = given.pop("model"), given.pop("loss_fn"), given.pop("batch")
    with pytest.raises(UserError, match=message):
        verify(model, loss_fn, data, **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_fn": None}, "step_fn must be callable"),
        ({"num_updates": 0}, "num_updates=0 must be a whole number of updates"),
        ({"optimizer": lambda parameters: 3}, "optimizer must make a torch Optimizer of parameters, not int"),
        ({"optimizer": torch.optim.SGD([torch.ones(1)])}, "the optimizer owns parameters that are not the model's"),
        ({"step_fn": lambda m, o, b: b[40]}, "step_fn fails: IndexError"),
    ],
)
def test_mistakes_with_steps_are_named(change, message):
    given = {"step_fn": STEP_FAULTS["never_divided"].step_fn, "micro_batch_size": 4} | change
    with pytest.raises(UserError, match=message):
        verify_step(given.pop("step_fn"), classifier(), mean_loss, batch(), **given)


def test_a_loop_over_a_loss_that_couples_samples_is_told_so():
    model, loss_fn, data = FAULTS["info_nce"].make()

    def step_fn(model, optimizer, micro_batches):
        for b in micro_batches:
            (loss_fn(model, b) / len(micro_batches)).backward()
        optimizer.step()

    result = verify_step(step_fn, model, loss_fn, data, micro_batch_size=4)
    assert result.cause.slug == "coupled-loss"
