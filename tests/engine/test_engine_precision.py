"""Precision: autocast, gradient scalers and the accumulation type."""

import math

import pytest
import torch
from torch import nn

from gradledger import Accumulator, UserError


def make_model(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).to(dtype)


def make_data(sizes=(4, 2, 4, 3), dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 8, generator=generator).to(dtype), torch.randint(4, (n,), generator=generator)) for n in sizes
    ]


def loss_of(model, batch):
    return nn.functional.cross_entropy(model(batch[0]).float(), batch[1])


def run(accumulator, data, steps, poison=None):
    window = next(accumulator.windows(data, steps=steps))
    with window:
        for at, batch in enumerate(window):
            loss = loss_of(accumulator.model, batch)
            window.backward(loss * math.inf if at == poison else loss)
    return window


def gradients_at_step(accumulator):
    seen = []
    accumulator.optimizer.register_step_pre_hook(
        lambda *_: seen.append([p.grad.clone() for p in accumulator.model.parameters()])
    )
    return seen


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_is_the_hand_written_loop(precision):
    """The same autocast and scaling by hand, on the same micro-batches, gives the same gradient to float32 rounding."""
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}[precision]
    ours, theirs, data = make_model(), make_model(), make_data()
    accumulator = Accumulator(ours, torch.optim.SGD(ours.parameters(), lr=0.1), precision=precision, clip_norm=0.1)
    seen = gradients_at_step(accumulator)
    window = run(accumulator, data, 4)
    for batch in data:
        with torch.autocast("cpu", dtype=dtype):
            loss = loss_of(theirs, batch)
        (loss * (len(batch[1]) / 13)).backward()
    norm = nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
    assert window.grad_norm == pytest.approx(norm.item(), rel=2e-3)
    for ours_grad, parameter in zip(seen[0], theirs.parameters(), strict=True):
        torch.testing.assert_close(ours_grad, parameter.grad, rtol=5e-3, atol=1e-5)
    assert not torch.is_autocast_enabled("cpu")
    assert accumulator.ledger.text() == ("( B B B B C S Z" if precision == "bf16-mixed" else "( B B B B U C S G Z")


def test_a_scaler_skips_and_no_schedule_advances():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)  # the scaled gradients overflow
    accumulator = Accumulator(model, optimizer, scheduler=scheduler, precision="16-mixed", scaler=scaler)
    before = [p.detach().clone() for p in model.parameters()]
    window = run(accumulator, make_data(), 4, poison=None)
    while not window.skipped:  # pragma: no cover - the scale above overflows at once
        window = run(accumulator, make_data(), 4)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert (accumulator.num_updates, scheduler.last_epoch) == (0, 0)
    assert scaler.get_scale() == 2.0**119
    assert accumulator.ledger.text() == "( B B B B U s G Z"


def test_a_scaler_does_not_hide_a_loss_that_is_not_finite():
    model = make_model()
    accumulator = Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), precision="16-mixed")
    with pytest.raises(UserError, match="the loss of micro-batch 2 of the window is inf"):
        run(accumulator, make_data(), 4, poison=2)
    assert accumulator.num_updates == 0
    assert not run(accumulator, make_data(), 4).skipped


def test_the_scale_is_frozen_while_windows_share_a_scaler():
    generator, critic = make_model(), make_model()
    scaler = torch.amp.GradScaler("cpu", growth_interval=1)
    accumulators = [
        Accumulator(m, torch.optim.SGD(m.parameters(), lr=0.1), precision="16-mixed", scaler=scaler, name=name)
        for m, name in ((generator, "generator"), (critic, "critic"))
    ]
    data = make_data()
    slow = next(accumulators[0].windows(data, steps=4))
    with slow:
        for at, batch in enumerate(slow):
            slow.backward(loss_of(generator, batch))
            if at == 0:
                run(accumulators[1], data, 2)
                assert scaler.get_scale() == 65536.0
    assert scaler.get_scale() == 131072.0
    assert [accumulator.num_updates for accumulator in accumulators] == [1, 1]
    again = next(accumulators[0].windows(data, steps=4))
    with pytest.raises(UserError, match="give each accumulator its own scaler"), again:
        for batch in again:
            again.backward(loss_of(generator, batch))
            run(accumulators[1], data, 2)
    assert [accumulator.num_updates for accumulator in accumulators] == [1, 2]
    run(accumulators[1], data, 2)  # nothing is left behind
    assert accumulators[1].num_updates == 3


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_thousand_small_contributions_in_float32(optimizer):
    def make(accumulate_dtype):
        model = nn.Linear(4, 1, bias=False).to(torch.bfloat16)
        made = optimizer(model.parameters(), lr=1e-3)
        return Accumulator(model, made, precision="bf16-true", accumulate_dtype=accumulate_dtype, weight=1.0)

    inputs = torch.ones(1, 4, dtype=torch.bfloat16)
    totals = {}
    for accumulate_dtype in (torch.float32, None):
        accumulator = make(accumulate_dtype)
        seen = gradients_at_step(accumulator)
        window = next(accumulator.windows((inputs for _ in range(1000)), steps=1000))
        with window:
            for micro_batch in window:
                window.backward(accumulator.model(micro_batch).sum())
        totals[accumulate_dtype] = seen[0][0]
        assert accumulator.model.weight.grad_dtype == torch.bfloat16
        assert accumulator.model.weight.grad is None
    assert totals[torch.float32].tolist() == [[pytest.approx(1.0, abs=1e-3)] * 4]
    assert totals[None].tolist() == [[pytest.approx(0.5)] * 4]


def test_the_norm_and_the_clip_see_the_accumulation_type():
    model = make_model(torch.bfloat16)
    accumulator = Accumulator(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        precision="bf16-true",
        accumulate_dtype=torch.float32,
        clip_norm=0.01,
    )
    seen = gradients_at_step(accumulator)
    window = run(accumulator, make_data(dtype=torch.bfloat16), 4)
    assert window.grad_norm > 0.01
    clipped = torch.cat([g.float().flatten() for g in seen[0]]).norm()
    assert clipped.item() == pytest.approx(0.01, rel=1e-2)
    assert {g.dtype for g in seen[0]} == {torch.bfloat16}


def test_a_void_window_restores_the_gradient_type():
    model = make_model(torch.bfloat16)
    accumulator = Accumulator(
        model, torch.optim.SGD(model.parameters(), lr=0.1), precision="bf16-true", accumulate_dtype=torch.float32
    )
    with next(accumulator.windows(make_data(dtype=torch.bfloat16), steps=4)) as window:
        assert model[0].weight.grad_dtype == torch.float32
    assert window.voided
    assert model[0].weight.grad_dtype == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_window_on_a_gpu_is_the_one_on_the_cpu(precision):
    data = make_data()
    ours, theirs = make_model().cuda(), make_model()
    for model, device, name in ((ours, "cuda", precision), (theirs, None, "32-true")):
        # a factor that sums over a few samples do not overflow float16 with: no update is skipped
        scaler = torch.amp.GradScaler(init_scale=2.0**10) if name == "16-mixed" else None
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        accumulator = Accumulator(model, optimizer, precision=name, device=device, clip_norm=1.0, scaler=scaler)
        for window in accumulator.windows(data, steps=3):
            with window:
                for batch in window:
                    window.backward(loss_of(model, batch), weight=batch[1].ne(-1).sum())
            assert not window.skipped
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.cpu(), q, rtol=1e-2, atol=1e-3)
