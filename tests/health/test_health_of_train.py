"""A training run looks for shared samples by itself."""

import torch
from torch.utils.data import TensorDataset

from gradledger.rules import judge
from gradledger.train import Run, load_config, prepare
from gradledger.train.data import Data


def leakage_of(validation_inputs):
    inputs = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    labels = (inputs.sum(1) > 0).long()
    train = TensorDataset(inputs[:150], labels[:150])
    validation = TensorDataset(validation_inputs(inputs), torch.zeros(50, dtype=torch.int64))
    data = Data("classification", train, validation, 2, ("a", "b"), (8,))
    run = Run(prepare(load_config(overrides=["epochs=1", "device=cpu"]), data))
    run.train()
    return [f.message for f in judge(run._passes.ledger, select=["val-train-leakage"])]


def test_shared_samples_are_found_and_an_honest_split_is_not_accused():
    assert leakage_of(lambda inputs: inputs[150:]) == []
    assert leakage_of(lambda inputs: inputs[140:190]) == [
        "Of 50 validation samples, 10 have an exact copy in the training set."
    ]
