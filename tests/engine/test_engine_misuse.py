"""Every misuse ends in one clear error, and loses nothing."""

import math
import re

import pytest
import torch
from torch import nn

from gradledger import Accumulator, UserError, class_weights, num_updates, tokens

DATA = [(torch.randn(4, 3), torch.randn(4, 2)) for _ in range(4)]


def make(**settings):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, optimizer, Accumulator(model, optimizer, **settings)


def loss_of(model, micro_batch):
    return nn.functional.mse_loss(model(micro_batch[0]), micro_batch[1])


def first_window(accumulator, data=DATA, **how):
    return next(iter(accumulator.windows(data, **(how or {"steps": 4}))))


def refuses(message):
    return pytest.raises(UserError, match=re.escape(message))


def test_backward_outside_a_window():
    model, _, accumulator = make()
    window = first_window(accumulator)
    with refuses("window.backward was called outside the window, which is new"):
        window.backward(loss_of(model, DATA[0]))
    with window:
        for micro_batch in window:
            window.backward(loss_of(model, micro_batch))
    with refuses("window.backward was called outside the window, which is closed"):
        window.backward(loss_of(model, DATA[0]))


def test_backward_before_the_first_micro_batch():
    model, _, accumulator = make()
    with refuses("before the window's first micro-batch"), first_window(accumulator) as window:
        window.backward(loss_of(model, DATA[0]))


def test_iterating_outside_the_block_and_twice():
    model, _, accumulator = make()
    window = first_window(accumulator)
    with refuses("a window is iterated inside its own with block"):
        iter(window)
    with refuses("this window is being iterated already"), window:
        for _ in window:
            iter(window)
    with refuses("this window is void: a window is used once"):
        iter(window)


def test_entering_twice_and_two_at_once():
    model, _, accumulator = make()
    windows = list(accumulator.windows(DATA, steps=2))
    with refuses("another window of this accumulator is open"), windows[0], windows[1]:
        pass
    with refuses("this window is void: a window is used once"), windows[0]:
        pass


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda model, b: model(b[0]), "takes a scalar loss, not a tensor of shape (4, 2)"),
        (lambda model, b: 1.5, "takes a scalar loss, not a float"),
        (lambda model, b: loss_of(model, b).detach(), "the loss needs no gradient"),
    ],
    ids=["shape", "number", "detached"],
)
@pytest.mark.parametrize("position", [0, 2])
def test_a_loss_that_cannot_be_used(loss, message, position):
    model, _, accumulator = make()
    with refuses(message), first_window(accumulator) as window:
        for at, micro_batch in enumerate(window):
            window.backward((loss if at == position else loss_of)(model, micro_batch))
    assert window.voided


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (math.inf, "non-finite weight inf"),
        (math.nan, "non-finite weight nan"),
        (-1, "the weight -1: a weight counts units"),
        ("many", "must be a number of units (samples, tokens), not 'many'"),
        (True, "must be a number of units (samples, tokens), not True"),
        (lambda micro_batch: math.inf, "non-finite weight inf"),
        ({}, "names no unit"),
    ],
)
def test_weights_out_of_range(weight, message):
    with refuses(message):
        model, _, accumulator = make(weight=weight)
        with first_window(accumulator) as window:
            for micro_batch in window:
                window.backward(loss_of(model, micro_batch))


def test_weights_given_to_some_backwards_only():
    model, _, accumulator = make()
    for late_first in (True, False):
        with refuses("give it to all, or none"), first_window(accumulator) as window:
            for at, micro_batch in enumerate(window):
                window.backward(loss_of(model, micro_batch), weight=4 if (at == 0) == late_first else None)


def test_a_late_weight_given_twice_for_one_micro_batch():
    model, _, accumulator = make()
    with refuses("has two backwards with weight= for 'samples'"), first_window(accumulator) as window:
        for micro_batch in window:
            window.backward(loss_of(model, micro_batch), weight=4)
            window.backward(loss_of(model, micro_batch), weight=4)


def test_late_terms_with_unlike_denominators():
    model, _, accumulator = make(weight={"samples": 1, "tokens": 1})
    with refuses("unlike denominators (samples, tokens)"), first_window(accumulator) as window:
        for at, micro_batch in enumerate(window):
            window.backward(loss_of(model, micro_batch), weight=4)
            window.backward(loss_of(model, micro_batch), weight=at, per="tokens")


def test_an_unknown_unit():
    model, _, accumulator = make()
    with refuses("per='tokens' is no unit of this accumulator: it has samples, micro-batch, window"):
        with first_window(accumulator) as window:
            for micro_batch in window:
                window.backward(loss_of(model, micro_batch), per="tokens")


def test_leaves_that_disagree_are_named():
    model, _, accumulator = make()
    data = [{"inputs": torch.randn(4, 3), "labels": torch.randn(5, 2)}]
    message = "batch['inputs'] has 4, batch['labels'] has 5; give weight="
    with refuses(message), first_window(accumulator, data) as window:
        for micro_batch in window:
            window.backward(model(micro_batch["inputs"]).mean())
    with refuses("holds no tensor with a leading dimension"), first_window(accumulator, ["text"]) as window:
        for _ in window:
            window.backward(model(DATA[0][0]).mean())


def test_a_window_without_backward():
    _, _, accumulator = make()
    with refuses("the window closes with 4 micro-batches and no backward"), first_window(accumulator) as window:
        for _ in window:
            pass
    assert accumulator.num_updates == 0


def test_a_loss_that_reaches_no_parameter():
    _, _, accumulator = make()
    other = nn.Linear(3, 2)
    with refuses("no parameter of the optimizer received a gradient"), first_window(accumulator) as window:
        for micro_batch in window:
            window.backward(loss_of(other, micro_batch))


def test_a_parameter_without_an_owner():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    accumulator = Accumulator(model, torch.optim.SGD(model[1].parameters(), lr=0.1))
    before = [p.clone() for p in model.parameters()]
    with refuses("the model's 0.weight, 0.bias received gradients, but the optimizer does not own them"):
        with first_window(accumulator) as window:
            for micro_batch in window:
                window.backward(loss_of(model, micro_batch))
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    model[0].requires_grad_(False)
    with first_window(accumulator) as window:
        for micro_batch in window:
            window.backward(loss_of(model, micro_batch))
    assert accumulator.num_updates == 1


def test_somebody_else_steps_inside_the_window():
    model, optimizer, accumulator = make()
    before = model.weight.clone()
    with refuses("optimizer.step() was called inside an open window") as caught:
        with first_window(accumulator) as window:
            for micro_batch in window:
                window.backward(loss_of(model, micro_batch))
                optimizer.step()
    assert "test_engine_misuse.py" in str(caught.value)
    assert torch.equal(model.weight, before)
    assert not optimizer.state
    optimizer.step()  # between windows it is nobody's business


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("position", [0, 1, 3])
def test_somebody_else_zeroes_inside_the_window(set_to_none, position):
    if not set_to_none and position == 3:
        return  # after the last micro-batch gradients may be changed: noise, projections
    model, optimizer, accumulator = make()
    message = "zero_grad() between its micro-batches" if set_to_none else "were changed between its micro-batches"
    with refuses(message), first_window(accumulator) as window:
        for at, micro_batch in enumerate(window):
            window.backward(loss_of(model, micro_batch))
            if at == position:
                optimizer.zero_grad(set_to_none=set_to_none)
    assert window.voided


def test_gradients_may_be_changed_after_the_last_micro_batch():
    model, _, accumulator = make()
    with first_window(accumulator) as window:
        for micro_batch in window:
            window.backward(loss_of(model, micro_batch))
        model.weight.grad.mul_(0)
        model.bias.grad = torch.zeros_like(model.bias)
    assert window.grad_norm == 0.0


def test_two_accounts_share_a_parameter():
    model, _, accumulator = make()
    other = Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), name="other")
    with refuses("share 2 parameter tensors and both have an open window"):
        with first_window(accumulator), first_window(other):
            pass
    assert model.weight.grad is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_norm": -1}, "clip_norm=-1 must be a positive number"),
        ({"clip_norm": "1"}, "clip_norm='1' must be a positive number"),
        ({"clip_norm": 1.0, "clip_value": 1.0}, "are both given: choose one"),
        ({"precision": "fp16"}, "precision='fp16': choose one of '32-true', 'bf16-mixed', '16-mixed', 'bf16-true'"),
        ({"precision": "bf16-true"}, "expects bfloat16 parameters, but the optimizer owns torch.float32"),
        ({"scaler": torch.amp.GradScaler("cpu")}, "only '16-mixed' uses one"),
        ({"non_finite": "ignore"}, "non_finite='ignore': choose one of"),
        ({"scheduler": 3}, "scheduler must be a torch LRScheduler or ReduceLROnPlateau, not int"),
    ],
)
def test_settings_out_of_range(settings, message):
    with refuses(message):
        make(**settings)


def test_wrong_objects():
    model, optimizer, _ = make()
    with refuses("model must be a torch Module, not list"):
        Accumulator([], optimizer)
    with refuses("optimizer must be a torch Optimizer, not Linear"):
        Accumulator(model, model)
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with refuses("owns no parameter with requires_grad=True"):
        Accumulator(frozen, torch.optim.SGD(frozen.parameters(), lr=0.1))
    stranger = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with refuses("the scheduler was made for another optimizer"):
        Accumulator(model, optimizer, scheduler=torch.optim.lr_scheduler.ConstantLR(stranger))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either steps= or effective_batch_size="),
        ({"steps": 4, "effective_batch_size": 64}, "give either steps= or effective_batch_size="),
        ({"steps": 0}, "steps=0: a window holds a whole number of micro-batches, at least 1"),
        ({"steps": 2.0}, "steps=2.0: a window holds a whole number"),
        ({"steps": lambda update: update}, "steps(0) returned 0"),
        ({"effective_batch_size": 0}, "effective_batch_size=0 must be a whole number of samples"),
        ({"steps": 4, "tail": "skip"}, "tail='skip': choose one of 'keep', 'drop', 'carry'"),
        ({"effective_batch_size": 3}, "the loader yields a micro-batch of 4 samples"),
    ],
)
def test_windows_out_of_range(arguments, message):
    _, _, accumulator = make()
    with refuses(message):
        list(accumulator.windows(DATA, **arguments))


def test_a_loader_that_is_none():
    _, _, accumulator = make()
    with refuses("the loader must be iterable, not int"):
        accumulator.windows(3, steps=2)


def test_updates_that_cannot_be_split():
    _, _, accumulator = make()
    for size in (0, 2.5, True):
        with refuses(f"micro_batch_size={size} must be a whole number of samples"):
            accumulator.update(DATA[0], loss_of, micro_batch_size=size)
    with refuses("the batch holds 0 samples"):
        accumulator.update((torch.zeros(0, 3), torch.zeros(0, 2)), loss_of, micro_batch_size=2)


def test_states_that_do_not_fit():
    model, optimizer, accumulator = make()
    state = accumulator.state_dict()
    with refuses("this is no state of an Accumulator: it lacks"):
        accumulator.load_state_dict({"num_updates": 1})
    with refuses("a state must be what state_dict() returned, not list"):
        accumulator.load_state_dict([])
    with refuses("the state has version 99"):
        accumulator.load_state_dict({**state, "version": 99})
    scheduled = Accumulator(model, optimizer, scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer))
    with refuses("the state has no scheduler, unlike this accumulator"):
        scheduled.load_state_dict(state)


def test_schedule_without_a_plateau():
    _, _, accumulator = make()
    with refuses("schedule(metric) is for ReduceLROnPlateau, but this accumulator has no scheduler"):
        accumulator.schedule(1.0)


def test_counting_updates_of_the_uncountable():
    with refuses("a loader of type generator has no length"):
        num_updates((i for i in range(3)), steps=2)
    with refuses("epochs=-1 must be a whole number of passes"):
        num_updates(3, steps=2, epochs=-1)
    with refuses("loader=-3 must be a number of micro-batches"):
        num_updates(-3, steps=2)


def test_labels_that_are_not_there():
    with refuses("a micro-batch of type dict has no labels at 'labels'"):
        tokens()({"targets": torch.zeros(3)})
    with refuses("the labels at -1 are no tensor but a str"):
        class_weights(torch.ones(2))((torch.zeros(3), "cat"))


def test_a_closure_optimizer_needs_a_replay():
    model = nn.Linear(3, 2)
    accumulator = Accumulator(model, torch.optim.LBFGS(model.parameters()))
    with refuses("LBFGS evaluates the loss again while it steps: call window.replay(loss_fn)"):
        with first_window(accumulator) as window:
            for micro_batch in window:
                window.backward(loss_of(model, micro_batch))
    _, _, scaled = make(precision="16-mixed")
    with refuses("a window cannot be replayed under precision='16-mixed'"), first_window(scaled) as window:
        window.replay(loss_of)
