"""The engine keeps a ledger that balances by construction: the rules find nothing in it, and would."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gradledger import Accumulator, tokens
from gradledger.ledger import Backward, Ledger, Zero, balance_of
from gradledger.rules import judge


def train(**settings):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    how = settings.pop("how", {"steps": 3})
    late = settings.pop("late", False)
    void = settings.pop("void", False)
    accumulator = Accumulator(model, optimizer, scheduler=scheduler, **settings)
    data = [(torch.randn(n, 3), torch.randint(2, (n,))) for n in (4, 2, 4, 4, 1, 3, 4)]
    for _ in range(3):
        for number, window in enumerate(accumulator.windows(data, **how)):
            with window:
                for inputs, labels in window:
                    loss = nn.functional.cross_entropy(model(inputs).float(), labels)
                    window.backward(loss, weight=len(labels) if late else None)
                    if void and number == 1:
                        break
    return accumulator.ledger


SETTINGS = {
    "plain": {},
    "clipped": {"clip_norm": 0.1},
    "carried": {"how": {"steps": 3, "tail": "carry"}},
    "dropped": {"how": {"steps": 3, "tail": "drop"}},
    "longer than an epoch": {"how": {"steps": 10, "tail": "carry"}},
    "by samples": {"how": {"effective_batch_size": 8}},
    "tokens": {"weight": tokens()},
    "late": {"late": True},
    "void": {"void": True},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "16-mixed": {"precision": "16-mixed", "clip_value": 0.1},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_rules_find_nothing(settings):
    ledger = train(**settings)
    assert [finding for finding in judge(ledger) if finding.severity != "info"] == []
    verdicts = {balance_of(window).verdict for window in ledger.windows() if window.step is not None}
    assert verdicts == {"balanced"}


def test_batch_normalisation_is_said_to_couple_samples():
    for is_training in (True, False):
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train(is_training)
        accumulator = Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))
        accumulator.update(torch.randn(8, 3), lambda m, x: m(x).square().mean(), micro_batch_size=4)
        assert [finding.rule for finding in judge(accumulator.ledger)] == ["batch-norm-in-window"] * is_training


def never_zeroed(entry):
    return None if isinstance(entry, Zero) else entry


def never_divided(entry):
    return replace(entry, scale=1.0, factors=(), weight=4.0) if isinstance(entry, Backward) else entry


@pytest.mark.parametrize(("spoil", "slug"), [(never_zeroed, "stale-gradient"), (never_divided, "unnormalized-loss")])
def test_the_rules_would_find_something(spoil, slug):
    spoiled = Ledger(entry for each in train() if (entry := spoil(each)) is not None)
    assert slug in {finding.rule for finding in judge(spoiled)}
