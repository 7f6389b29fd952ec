"""A rank that dies while others wait for its gradients ends them promptly."""

import os
import subprocess
import sys
from pathlib import Path

import gradledger

SCRIPT = Path(__file__).with_name("failing_rank.py")
DEADLINE_SECONDS = 280


def test_no_rank_waits_for_one_that_has_ended(tmp_path):
    source = Path(gradledger.__file__).parents[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(source)}
    ranks = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(rank), tmp_path / "store"],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        errors = [rank.communicate(timeout=DEADLINE_SECONDS)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert all(rank.returncode != 0 for rank in ranks)
    assert "ValueError: disk on fire" in errors[1]
    assert "RuntimeError" in errors[0]
