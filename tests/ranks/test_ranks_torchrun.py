"""What users type: torchrun starts the ranks, and one run comes of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradledger

DEADLINE_SECONDS = 280


@pytest.mark.slow
def test_torchrun_trains_one_run(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(gradledger.__file__).parents[1])}
    ended = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "gradledger",
         "train", "--set", "epochs=1", "--set", "effective_batch_size=64", "--set", "name=two"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=DEADLINE_SECONDS,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Run directory    runs/two") == 1
    assert "2 ranks × micro-batches of 16 × 2 = effective batch 64" in ended.stdout
    lines = (tmp_path / "runs" / "two" / "metrics.jsonl").read_text().splitlines()
    summary = json.loads(lines[-1])
    assert (summary["num_updates"], summary["exit"], summary["effective_batch"]["ranks"]) == (23, "finished", 2)


_ENDING = """
import atexit, sys, threading
import torch.distributed
from gradledger.cli import main


class Witness:
    def __del__(self):
        print("Python has ended", flush=True)


witness = Witness()
atexit.register(print, "at exit", flush=True)
threading.Thread(target=lambda: threading.main_thread().join(0.2) or print("thread", flush=True)).start()
sys.argv = ["gradledger", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(("arguments", "status"), [(["version"], 0), (["rules", "no-such-rule"], 2)])
def test_a_rank_ends_without_pythons_own_ending(arguments, status):
    """In which gloo's threads abort now and then; what the program wants done before it is done."""
    ended = subprocess.run(
        [sys.executable, "-c", _ENDING, *arguments],
        env=os.environ | {"WORLD_SIZE": "2"}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert ended.returncode == status, ended.stderr
    assert "thread\n" in ended.stdout
    assert ended.stdout.endswith("at exit\n")
    assert (len(ended.stdout) > len("thread\nat exit\n")) == (status == 0)
    assert ("no-such-rule" in ended.stderr) == (status == 2)
