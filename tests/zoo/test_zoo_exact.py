"""Micro-batches equal the whole batch: every entry of the zoo, in float64 and float32, with clipping and tails."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradledger import verify
from gradledger.engine.account import Account
from gradledger.engine.shares import Shares
from zoo.entries import ZOO
from zoo.keeper import Animal, distance_after_training, errors_in

TOLERANCE_64 = 1e-12
SIZES = (4, 4, 2, 5, 1, 3, 4, 2)  # two windows of three, and a tail of two
SETTINGS = [("sgd", None), ("adamw", 0.1)]


def test_the_zoo_is_large_enough():
    assert len(ZOO) >= 40
    assert sum(entry.is_random for entry in ZOO.values()) >= 6


@pytest.mark.parametrize(("optimizer", "clip_norm"), SETTINGS, ids=["plain", "clipped"])
@pytest.mark.parametrize("name", ZOO)
def test_training_is_that_of_whole_batches_in_float64(name, optimizer, clip_norm):
    if ZOO[name].has_idle_parameter:
        optimizer = "sgd"
    assert distance_after_training(ZOO[name], optimizer, clip_norm, SIZES) <= TOLERANCE_64


WITH_ONE_TERM = [name for name, entry in ZOO.items() if not isinstance(entry.settings.get("weight"), dict)]


@pytest.mark.parametrize("name", WITH_ONE_TERM)
def test_weights_known_only_after_the_forward_are_as_exact(name):
    assert distance_after_training(ZOO[name], "sgd", 0.1, SIZES, is_late=True) <= TOLERANCE_64


@pytest.mark.parametrize("name", ZOO)
def test_errors_in_float32_are_those_of_the_whole_batch(name):
    ours, whole = errors_in(ZOO[name], torch.float32)
    assert 0 < whole < 1e-5
    assert ours <= 2 * whole


# Autograd in bfloat16 through these differs between batch sizes by more than rounding: kernels change algorithm.
@pytest.mark.parametrize("name", ["perceptron, cross entropy", "residual", "transformer, tokens", "experts"])
@pytest.mark.parametrize("accumulate_dtype", [None, torch.float32])
def test_errors_in_bfloat16_are_those_of_the_whole_batch(name, accumulate_dtype):
    ours, whole = errors_in(ZOO[name], torch.bfloat16, precision="bf16-true", accumulate_dtype=accumulate_dtype)
    assert ours <= 2 * whole


@pytest.mark.parametrize("name", ZOO)
def test_verify_is_silent(name):
    entry = ZOO[name]
    animal = Animal(entry, torch.float32)
    result = verify(animal.model(), entry.loss_fn, animal.draw(10, 1), micro_batch_size=4, **entry.settings)
    assert result.verdict == "exact", str(result)
    assert result.cause is None


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(sorted(ZOO)),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=7),
    clip_norm=st.sampled_from([None, 0.01, 1.0]),
)
def test_any_split_is_exact(name, sizes, clip_norm):
    assert distance_after_training(ZOO[name], "sgd", clip_norm, tuple(sizes)) <= TOLERANCE_64


def wrong_scale(monkeypatch):
    right = Shares.share
    monkeypatch.setattr(Shares, "share", lambda *a: right(*a)._replace(coefficient=right(*a).coefficient * 1.001))


def wrong_weight(monkeypatch):
    """Every micro-batch counts the same."""
    right = Shares.share

    def share(self, *arguments):
        return right(self, *arguments)._replace(coefficient=1 / len(self._micro_batches))

    monkeypatch.setattr(Shares, "share", share)


def wrong_order(monkeypatch):
    """The gradient is clipped as it grows, not once it is whole."""
    right = Account.watch

    def watch(self):
        torch.nn.utils.clip_grad_norm_([p for p in self.parameters if p.grad is not None], 0.05)
        right(self)

    monkeypatch.setattr(Account, "watch", watch)


def stale_gradients(monkeypatch):
    """Nothing is zeroed between windows."""
    monkeypatch.setattr(Account, "clear_gradients", lambda self: None)

    def opened(self):
        self.parameters = self._owned()
        self._ungradiented, self._watched, self.is_open = [], None, True
        return False

    monkeypatch.setattr(Account, "open", opened)


@pytest.mark.parametrize("mutation", [wrong_scale, wrong_weight, wrong_order, stale_gradients])
@pytest.mark.parametrize("name", ["perceptron, cross entropy", "transformer, tokens", "perceptron, dropout"])
def test_a_broken_engine_does_not_pass(name, mutation, monkeypatch):
    mutation(monkeypatch)
    with pytest.raises(AssertionError):
        test_training_is_that_of_whole_batches_in_float64(name, "sgd", None)


@pytest.mark.parametrize("mutation", [wrong_scale, wrong_weight, wrong_order])
@pytest.mark.parametrize("name", ["perceptron, cross entropy", "transformer, tokens", "perceptron, dropout"])
def test_verify_sees_a_broken_engine(name, mutation, monkeypatch):
    mutation(monkeypatch)
    with pytest.raises(AssertionError):
        test_verify_is_silent(name)
