"""Over two ranks with data of their own, every trainer with its adapter steps on the whole batch of both."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent / "src", TESTS)))}
    command = [sys.executable, "-m", "integrations.rank_trainers", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["accelerate", "fabric", "fabric, sharded", "lightning", "hf trainer"])
def test_updates_are_those_of_the_whole_batch_of_all_ranks(results, trainer):
    for of_rank in results:
        assert isinstance(of_rank[trainer], dict), of_rank[trainer]
        assert of_rank[trainer]["norms"] < 1e-12
        assert of_rank[trainer]["parameters"] < 1e-12
        assert of_rank[trainer]["losses"] < 1e-6  # the Hugging Face Trainer adds up in float32


@pytest.mark.slow
def test_a_rank_that_cannot_count_ends_all_of_them(results):
    assert "non-finite weight" in results[1]["one rank cannot count"]
    assert "rank 1 failed with UserError" in results[0]["one rank cannot count"]


@pytest.mark.slow
def test_findings_of_any_rank_are_known_on_all_and_told_once(results):
    told = "{'gradledger/errors': 1.0, 'gradledger/warnings': 0.0}"
    assert results[0]["audited together"] == ["stale-gradient", told]
    assert results[1]["audited together"] == ["stale-gradient"]
