"""A window closes whole or not at all."""

import math

import pytest
import torch
from torch import nn

from gradledger import Accumulator, UserError
from gradledger.engine import NonFiniteError

DATA = [(torch.randn(n, 3, dtype=torch.float64), torch.randn(n, 2, dtype=torch.float64)) for n in (4, 2, 3, 1, 4, 2)]


def make(optimizer=torch.optim.AdamW, **settings):
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    made = optimizer(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(made, 1, gamma=0.5)
    return model, Accumulator(model, made, scheduler=scheduler, **settings)


def loss_of(model, micro_batch):
    return nn.functional.mse_loss(model(micro_batch[0]), micro_batch[1])


def run(model, window):
    with window:
        for micro_batch in window:
            window.backward(loss_of(model, micro_batch))


def everything(model, accumulator):
    """All that a void window must leave as it was."""
    optimizer = accumulator.optimizer.state_dict()
    return (
        [p.detach().clone().tolist() for p in model.parameters()],
        repr(optimizer),
        repr(accumulator.scheduler.state_dict()),
        (accumulator.num_updates, accumulator.num_micro_batches, dict(accumulator.totals)),
    )


def leave_by_exception(model, window):
    with pytest.raises(ZeroDivisionError), window:
        for micro_batch in window:
            window.backward(loss_of(model, micro_batch))
            1 / 0  # noqa: B018


def leave_by_exception_after_the_last(model, window):
    with pytest.raises(ZeroDivisionError), window:
        for micro_batch in window:
            window.backward(loss_of(model, micro_batch))
        1 / 0  # noqa: B018


def leave_early(model, window):
    with window:
        for micro_batch in window:
            window.backward(loss_of(model, micro_batch))
            break


def leave_without_iterating(model, window):
    with window:
        pass


def leave_by_interrupt(model, window):
    with pytest.raises(KeyboardInterrupt), window:
        for micro_batch in window:
            window.backward(loss_of(model, micro_batch))
            raise KeyboardInterrupt


def leave_by_non_finite_loss(model, window):
    with pytest.raises(NonFiniteError, match="the loss of micro-batch 1 of the window is nan"), window:
        for at, micro_batch in enumerate(window):
            window.backward(loss_of(model, micro_batch) * (math.nan if at == 1 else 1))


WAYS_OUT = [
    leave_by_exception, leave_by_exception_after_the_last, leave_early, leave_without_iterating, leave_by_interrupt,
    leave_by_non_finite_loss,
]  # fmt: skip


@pytest.mark.parametrize("leave", WAYS_OUT)
def test_a_void_window_changes_nothing_and_the_next_is_right(leave):
    model, accumulator = make(clip_norm=1.0)
    untouched, reference = make(clip_norm=1.0)
    windows, expected = accumulator.windows(DATA, steps=2), reference.windows(DATA, steps=2)
    run(model, next(windows))
    run(untouched, next(expected))
    before = everything(model, accumulator)
    spoiled = next(windows)
    leave(model, spoiled)
    assert spoiled.voided
    assert not spoiled.skipped
    assert spoiled.grad_norm is None
    assert everything(model, accumulator) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    next(expected)
    run(model, next(windows))
    run(untouched, next(expected))
    assert everything(model, accumulator) == everything(untouched, reference)


def test_the_ledger_says_what_was_void():
    model, accumulator = make(clip_norm=1.0)
    windows = accumulator.windows(DATA, steps=3)
    leave_early(model, next(windows))
    run(model, next(windows))
    assert accumulator.ledger.text() == "( B V B B B C S L Z"
    assert accumulator.ledger.windows()[0].is_void
    assert [entry.micro_batch for entry in accumulator.ledger] == [0, 1, 1, 1, 2, 3, 3, 3, 3, 3]


def test_gradients_from_outside_never_leak_in():
    model, accumulator = make()
    clean, reference = make()
    loss_of(model, DATA[0]).backward()
    run(model, next(accumulator.windows(DATA, steps=3)))
    run(clean, next(reference.windows(DATA, steps=3)))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), clean.parameters(), strict=True))
    assert accumulator.ledger.text() == "( Z B B B S L Z"


def test_an_error_after_the_step_counts_the_update():
    model, accumulator = make()
    before = model.weight.detach().clone()
    accumulator.scheduler.step = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run(model, next(accumulator.windows(DATA, steps=3)))
    assert not torch.equal(model.weight, before)
    assert accumulator.num_updates == 1
    assert model.weight.grad is None
    assert accumulator.ledger.text() == "( B B B S Z"


def test_a_gradient_that_is_not_finite_under_a_finite_loss():
    model, accumulator = make()
    before = everything(model, accumulator)

    def steep(model, micro_batch):  # sqrt has an infinite slope at 0
        return loss_of(model, micro_batch) + (model.weight * 0).abs().sum().sqrt()

    with pytest.raises(NonFiniteError, match="gradient has the norm nan although all its losses are finite"):
        accumulator.update(DATA[0], steep, micro_batch_size=2)
    assert everything(model, accumulator) == before


def test_skip_update_skips_and_schedules_nothing():
    model, accumulator = make(non_finite="skip-update")
    before = everything(model, accumulator)
    update = accumulator.update(DATA[0], lambda m, b: loss_of(m, b) * math.inf, micro_batch_size=2)
    assert update.skipped
    assert update.skip_reason == "the gradient was not finite"
    after = everything(model, accumulator)
    assert after[:3] == before[:3]
    assert (accumulator.num_updates, accumulator.num_micro_batches) == (0, 2)
    assert accumulator.ledger.text() == "B B s Z"


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_drop_micro_batch_renormalises_by_the_survivors(late, bad):
    model, accumulator = make(non_finite="drop-micro-batch", clip_norm=1.0)
    clean, reference = make(clip_norm=1.0)
    window = next(accumulator.windows(DATA, steps=3))
    with window:
        for at, micro_batch in enumerate(window):
            poison = math.nan if at == bad else 1.0
            window.backward(loss_of(model, micro_batch) * poison, weight=len(micro_batch[0]) if late else None)
    survivors = [micro_batch for at, micro_batch in enumerate(DATA[:3]) if at != bad]
    expected = next(reference.windows(survivors, steps=3))
    run(clean, expected)
    assert window.num_dropped == 1
    assert window.weight == expected.weight
    assert window.loss == pytest.approx(expected.loss, rel=1e-12)
    torch.testing.assert_close(model.weight, clean.weight, rtol=1e-12, atol=1e-14)


def test_dropping_every_micro_batch_skips():
    model, accumulator = make(non_finite="drop-micro-batch")
    before = everything(model, accumulator)
    update = accumulator.update(DATA[0], lambda m, b: loss_of(m, b) * math.nan, micro_batch_size=2)
    assert update.skipped
    assert everything(model, accumulator)[:3] == before[:3]


def test_a_micro_batch_without_backward_is_left_out_of_the_mean():
    model, accumulator = make()
    clean, reference = make()
    window = next(accumulator.windows(DATA, steps=3))
    with window:
        for at, micro_batch in enumerate(window):
            if at != 1:
                window.backward(loss_of(model, micro_batch))
    run(clean, next(reference.windows([DATA[0], DATA[2]], steps=2)))
    torch.testing.assert_close(model.weight, clean.weight, rtol=1e-12, atol=1e-14)
    assert window.weight == 7.0


def test_hooks_run_once_per_update_and_counters_add_up():
    model, accumulator = make(non_finite="skip-update")
    seen = []
    accumulator.on_update(lambda window: seen.append((window.num_micro_batches, accumulator.num_updates)))
    windows = accumulator.windows(DATA, steps=2)
    run(model, next(windows))
    leave_early(model, next(windows))
    with next(windows) as skipped:
        for micro_batch in skipped:
            skipped.backward(loss_of(model, micro_batch) * math.nan)
    assert seen == [(2, 1)]
    assert accumulator.totals == {"samples": 12.0}


def test_state_goes_on_bitwise(tmp_path):
    model, accumulator = make(clip_norm=1.0)
    for window in accumulator.windows(DATA, steps=4, tail="carry"):
        run(model, window)
    torch.save({"model": model.state_dict(), "accumulator": accumulator.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed, other = make(clip_norm=1.0)
    resumed.load_state_dict(state["model"])
    other.load_state_dict(state["accumulator"])
    assert other.num_carried == 2
    for each_model, each in ((model, accumulator), (resumed, other)):
        for window in each.windows(DATA, steps=4):
            run(each_model, window)
    assert everything(model, accumulator) == everything(resumed, other)


def test_a_plateau_scheduler_waits_for_its_metric():
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    accumulator = Accumulator(model, optimizer, scheduler=scheduler)
    for _ in range(3):
        for window in accumulator.windows(DATA, steps=2):
            run(model, window)
        accumulator.schedule(1.0)
    assert optimizer.param_groups[0]["lr"] == 0.025
    assert accumulator.ledger.text() == " ".join(["( B B S Z B B S Z B B S Z ) L"] * 3)


def test_a_hook_that_fails_leaves_the_accumulator_usable():
    model, accumulator = make()
    accumulator.on_update(lambda window: 1 / 0)
    windows = accumulator.windows(DATA, steps=3)
    with pytest.raises(ZeroDivisionError):
        run(model, next(windows))
    assert accumulator.num_updates == 1
    accumulator._hooks.clear()
    run(model, next(windows))
    assert accumulator.num_updates == 2


def test_errors_are_value_errors():
    assert issubclass(UserError, ValueError)
    assert issubclass(NonFiniteError, UserError)


def test_two_backwards_in_one_micro_batch_do_not_make_up_for_one_missing():
    model, accumulator = make()
    clean, reference = make()
    with next(accumulator.windows(DATA, steps=2)) as window:
        for at, micro_batch in enumerate(window):
            if at == 0:
                for half in (0.25, 0.75):
                    window.backward(half * loss_of(model, micro_batch))
    run(clean, next(reference.windows(DATA[:1], steps=1)))
    torch.testing.assert_close(model.weight, clean.weight, rtol=1e-12, atol=1e-14)
    assert window.weight == 4.0


@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("settings", [{}, {"clip_norm": 1.0}, {"precision": "16-mixed", "clip_value": 1.0}])
def test_a_record_says_how_long_it_is_without_being_read(settings, void):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    accumulator = Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), **settings)
    micro_batch = (torch.randn(4, 3), torch.randn(4, 2))
    loss_of(model, micro_batch).backward()
    with next(accumulator.windows([micro_batch] * 3, steps=3)) as window:
        for at, each in enumerate(window):
            window.backward(loss_of(model, each).float(), weight=at + 1)
            if void:
                break
    assert len(accumulator.ledger) == len(list(accumulator.ledger))
