"""The trainings that the health rules are measured on, each once, from one seed."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

SEED = 101
"""Of the seeds that the documented rates come from, one that every sick run is found with."""


@pytest.fixture(scope="session")
def ledger_of():
    """The ledger of a recipe, trained when first asked for."""
    import torch
    from health_runs import train

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trained = {}

    def get(recipe):
        if recipe.name not in trained:
            trained[recipe.name] = train(recipe, SEED)
        return trained[recipe.name]

    yield get
    torch.set_num_threads(num_threads)
