"""Every seeded fault is found, and its cause named; what is not a fault is not."""

import re

import pytest
import torch
from torch import nn

from gradledger import verify, verify_step
from verifier.seeded_faults import FAULTS, STEP_FAULTS, batch, classifier, mean_loss
from zoo.entries import ZOO
from zoo.keeper import Animal


@pytest.mark.parametrize("name", FAULTS)
def test_the_cause_is_named(name):
    fault = FAULTS[name]
    model, loss_fn, data = fault.make()
    options = {"micro_batch_size": 4, **fault.options}
    if model.__class__ is nn.Linear and next(model.parameters()).dtype == torch.bfloat16:
        options["precision"] = "bf16-true"
    result = verify(model, loss_fn, data, **options)
    assert result.verdict == ("not comparable" if fault.slug == "random" else "not exact")
    assert result.cause.slug == fault.slug, result.cause
    assert re.search(fault.says, f"{result.cause.message} {result.cause.fix}"), result.cause
    if fault.where is not None:
        assert result.cause.where == fault.where


@pytest.mark.parametrize("name", STEP_FAULTS)
def test_the_loops_fault_is_named(name):
    fault = STEP_FAULTS[name]
    result = verify_step(fault.step_fn, classifier(), mean_loss, batch(32), micro_batch_size=4)
    assert result.verdict == "not exact"
    assert result.cause.slug == fault.slug, result.cause
    assert re.search(fault.says, result.cause.message), result.cause
    what = "parameters after" if fault.slug == "optimizer" else "gradient of"
    assert result.checked == f"{what} update {fault.update}"


@pytest.mark.parametrize(
    "name",
    ["never_divided", "divided_twice", "zeroed_for_every_micro_batch", "never_zeroed", "stepped_without_unscaling"],
)
def test_the_loops_fault_is_named_with_fewer_parameters_than_micro_batches(name):
    """Least squares alone has many answers here."""
    torch.manual_seed(0)
    fault = STEP_FAULTS[name]
    model = nn.Sequential(nn.Linear(6, 3, bias=False).requires_grad_(False), nn.Linear(3, 3, bias=False))
    result = verify_step(fault.step_fn, model, mean_loss, batch(32), micro_batch_size=2)
    assert result.cause.slug == fault.slug, result.cause


def test_the_denominator_is_named_with_fewer_parameters_than_micro_batches():
    inputs, labels = batch(24)
    labels[[1, 4, 5, 9, 20]] = -100
    model = nn.Sequential(nn.Linear(6, 3).requires_grad_(False), nn.Tanh(), nn.Linear(3, 1, bias=False))

    def loss_fn(model, b):
        kept = b[1] != -100
        return (model(b[0])[kept, 0] - b[1][kept]).square().mean()

    cause = verify(model, loss_fn, (inputs, labels), micro_batch_size=4).cause
    assert "is a mean over elements of batch[1] that are not -100" in cause.message
    total = verify(model, lambda m, b: loss_fn(m, b) * (b[1] != -100).sum(), (inputs, labels), micro_batch_size=4).cause
    assert total.slug == "wrong-scale"


def right_step(model, optimizer, micro_batches):
    total = sum(len(b[0]) for b in micro_batches)
    for b in micro_batches:
        (mean_loss(model, b) * len(b[0]) / total).backward()
    optimizer.step()
    optimizer.zero_grad()


OPTIMIZERS = {
    "sgd": None,
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_right_loop_is_exact(optimizer, dtype):
    inputs, labels = batch(27)
    result = verify_step(
        right_step,
        classifier(nn.Dropout(0.5)).to(dtype),
        mean_loss,
        (inputs.to(dtype), labels),
        micro_batch_size=4,
        optimizer=OPTIMIZERS[optimizer],
        num_updates=3,
    )
    assert result.verdict == "exact", str(result)


def test_rounding_that_adam_turns_into_steps_is_no_fault():
    """The last bias falls out of the differences, so its gradient is zero but for rounding."""
    animal = Animal(ZOO["given triplets"], torch.float32, seed=1)

    def step_fn(model, optimizer, micro_batches):
        optimizer.zero_grad()
        for b in micro_batches:
            (animal.entry.loss_fn(model, b) / len(micro_batches)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()

    result = verify_step(
        step_fn,
        animal.model(),
        animal.entry.loss_fn,
        animal.draw(12, 1),
        micro_batch_size=3,
        optimizer=OPTIMIZERS["adamw"],
        num_updates=4,
        clip_norm=0.05,
    )
    assert result.is_exact, str(result)
    assert {"0.weight", "0.bias", "2.weight"} == {parameter.name for parameter in result.parameters}


def test_a_loop_that_clips_is_exact_once_it_says_so():
    step_fn = STEP_FAULTS["clipped_without_saying"].step_fn
    assert verify_step(step_fn, classifier(), mean_loss, batch(32), micro_batch_size=4, clip_norm=0.05).is_exact
