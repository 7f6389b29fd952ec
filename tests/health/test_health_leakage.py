"""Shared samples, planted and counted."""

import numpy as np
import pytest
import torch
from health_runs import blobs, digits, heavy_tails, patients, tumours
from torch.utils.data import Subset, TensorDataset

from gradledger.errors import UserError
from gradledger.metrics import find_leakage

REAL = {"digits": digits(), "tumours": tumours(), "patients": patients, "blobs": blobs(), "heavy": heavy_tails}


@pytest.fixture(scope="module", params=REAL)
def split(request):
    return REAL[request.param](0)


def test_an_honest_split_shares_nothing(split):
    found = find_leakage(split.train_inputs, split.validation_inputs)
    assert (found.num_exact, found.num_near, found.num_shared_indices, found.num_by_chance) == (0, 0, 0, 0)


def test_planted_copies_are_counted_exactly(split):
    exact, near = split.train_inputs[:20], split.train_inputs[20:50]
    noise = 0.01 * near.std() * torch.randn(near.shape, generator=torch.Generator().manual_seed(0))
    found = find_leakage(split.train_inputs, torch.cat([split.validation_inputs, exact, near + noise]))
    assert (found.num_exact, found.num_near) == (20, 30)
    offset = len(split.validation_inputs)
    assert found.examples[0] == (offset, 0)


def test_indices_of_one_data_set_are_compared_through_subsets():
    data = TensorDataset(torch.randn(50, 3), torch.zeros(50))
    outer = Subset(data, range(10, 50))
    found = find_leakage(Subset(data, range(30)), Subset(outer, [0, 5, 19, 20, 39]))
    assert found.num_shared_indices == 3  # 10, 15 and 29
    assert found.num_exact == 3


def test_data_of_few_values_have_copies_by_chance():
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(0, 2, (600, 6), generator=generator).float()
    found = find_leakage(bits[:500], bits[500:])
    assert (found.num_exact, found.num_by_chance) == (0, 100)


def test_samples_of_unlike_length_are_compared_exactly():
    train = [np.arange(n) for n in (3, 4, 5, 6)]
    found = find_leakage(train, [np.arange(4), np.arange(9), np.arange(6.0)])
    assert found.examples == ((0, 1),)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UserError, match="the validation set is empty: there is nothing to compare"):
        find_leakage(torch.ones(3, 2), torch.ones(0, 2))
    with pytest.raises(UserError, match="the training set is generator: give a tensor"):
        find_leakage((x for x in ()), torch.ones(3, 2))
