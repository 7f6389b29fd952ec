"""The engine against whole batches, in float64, after several epochs."""

import pytest
import torch
from torch import nn

from engine.oracle import relative_distance, train_on_whole_batches
from gradledger import Accumulator

SIZES = (4, 4, 2, 5, 1, 3, 4, 2)
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def make_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def make_data(sizes, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, 6, generator=generator).double(), torch.randint(3, (n,), generator=generator)) for n in sizes
    ]


def loss_fn(model, inputs, labels):
    return nn.functional.cross_entropy(model(inputs), labels)


def chunks(items, size):
    return [items[i : i + size] for i in range(0, len(items), size)]


def run_engine(model, optimizer, loaders, *, scheduler=None, windows=None, **settings):
    accumulator = Accumulator(model, optimizer, scheduler=scheduler, **settings)
    seen = []
    for loader in loaders:
        for window in accumulator.windows(loader, **(windows or {"steps": 3})):
            with window:
                for inputs, labels in window:
                    window.backward(loss_fn(model, inputs, labels))
            seen.append((window.loss, window.grad_norm))
    return accumulator, seen


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("clipping", [{}, {"clip_norm": 0.3}, {"clip_value": 0.05}], ids=["free", "norm", "value"])
@pytest.mark.parametrize("as_generator", [False, True], ids=["list", "generator"])
def test_updates_equal_whole_batches(optimizer, clipping, as_generator):
    ours, theirs = make_model(), make_model()
    data = make_data(SIZES)
    made = [OPTIMIZERS[optimizer](m.parameters()) for m in (ours, theirs)]
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=12) for o in made]
    loaders = [(pair for pair in data) if as_generator else data for _ in range(4)]
    accumulator, seen = run_engine(ours, made[0], loaders, scheduler=schedulers[0], **clipping)
    expected = train_on_whole_batches(
        theirs, made[1], chunks(data, 3) * 4, loss_fn, scheduler=schedulers[1], **clipping
    )
    assert relative_distance(ours, theirs) <= 1e-12
    assert seen == [pytest.approx(pair, rel=1e-10) for pair in expected]
    assert accumulator.num_updates == 12
    assert made[0].param_groups[0]["lr"] == made[1].param_groups[0]["lr"]


def test_thousand_samples_in_16s_by_4():
    ours, theirs = make_model(), make_model()
    data = make_data([16] * 62 + [8])
    made = [OPTIMIZERS["adamw"](m.parameters()) for m in (ours, theirs)]
    _, seen = run_engine(ours, made[0], [data, data, data], windows={"effective_batch_size": 64}, clip_norm=1.0)
    train_on_whole_batches(theirs, made[1], chunks(data, 4) * 3, loss_fn, clip_norm=1.0)
    assert len(seen) == 48
    assert relative_distance(ours, theirs) <= 1e-12


def test_update_splits_an_effective_batch():
    ours, theirs = make_model(), make_model()
    data = make_data([23] * 6)
    made = [OPTIMIZERS["sgd"](m.parameters()) for m in (ours, theirs)]
    accumulator = Accumulator(ours, made[0], clip_norm=0.5)
    for batch in data:
        update = accumulator.update(batch, lambda m, b: loss_fn(m, *b), micro_batch_size=8)
        assert (update.num_micro_batches, update.weight) == (3, 23.0)
    train_on_whole_batches(theirs, made[1], [[batch] for batch in data], loss_fn, clip_norm=0.5)
    assert relative_distance(ours, theirs) <= 1e-12


def test_windows_longer_than_an_epoch_carry_over():
    ours, theirs = make_model(), make_model()
    data = make_data(SIZES)
    made = [OPTIMIZERS["sgd"](m.parameters()) for m in (ours, theirs)]
    accumulator, _ = run_engine(ours, made[0], [data] * 4, windows={"steps": 11, "tail": "carry"})
    train_on_whole_batches(theirs, made[1], chunks(data * 4, 11)[:2], loss_fn)
    assert (accumulator.num_updates, accumulator.num_carried) == (2, 10)
    assert relative_distance(ours, theirs) <= 1e-12


def test_the_oracle_sees_a_wrong_scale(monkeypatch):
    ours, theirs = make_model(), make_model()
    data = make_data(SIZES)
    made = [OPTIMIZERS["sgd"](m.parameters()) for m in (ours, theirs)]
    from gradledger.engine.shares import Shares

    right = Shares.share
    monkeypatch.setattr(Shares, "share", lambda *a: right(*a)._replace(coefficient=1 / 3))
    run_engine(ours, made[0], [data])
    train_on_whole_batches(theirs, made[1], chunks(data, 3), loss_fn)
    assert relative_distance(ours, theirs) > 1e-6
