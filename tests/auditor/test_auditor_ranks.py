"""Audits under torchrun: every script in ``two_ranks``, all in one launch, each cause told once for both ranks."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gradledger.rules import rule_named
from loops.corpus import expected

SCRIPTS = sorted((Path(__file__).parent / "two_ranks").glob("*.py"))
BROKEN = [path for path in SCRIPTS if path.stem.startswith("broken_")]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "gradledger"]
RULE = rule_named("uneven-ranks")
GROUP = re.compile(r'if "RANK".*?world_size=1\)\n|dist.destroy_process_group\(\)\n', re.DOTALL)
EXAMPLES = {f"{name}.py": GROUP.sub("", source) for name, source in (("bad", RULE.bad), ("good", RULE.good))}
DRIVER = """
import runpy, sys
import torch.distributed as dist
dist.init_process_group("gloo")
for path in sys.argv[1:]:
    names = runpy.run_path(path)
    dist.barrier()  # nobody goes on with the next model while the other still reduces
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What one audit of all scripts under two ranks tells."""
    folder = tmp_path_factory.mktemp("ranks")
    for name, source in {"driver.py": DRIVER, **EXAMPLES}.items():
        (folder / name).write_text(source)
    launched = subprocess.Popen(
        [*LAUNCH, "audit", "--format", "json", "driver.py", *map(str, SCRIPTS), *EXAMPLES],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )  # fmt: skip
    try:
        out, err = launched.communicate(timeout=120)
    finally:
        launched.terminate()  # it ends its ranks, which a SIGKILL would leave behind
        launched.wait(timeout=60)
    assert launched.returncode == 1, err
    assert "findings so far" not in err
    return json.loads(out)


def found_in(report, path):
    return [f for f in report["findings"] if Path(f["location"]["file"]).name == path.name]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_what_is_marked_is_found_once(report, path):
    found = [(f["location"]["line"], f["rule"]) for f in found_in(report, path) if f["severity"] != "info"]
    assert found == [(line, slug) for line, slugs in expected(path, "audit").items() for slug in slugs]
    assert bool(found) == (path in BROKEN)


def test_counts_are_those_of_one_rank(report):
    counts = {path.stem: [f["count"] for f in found_in(report, path)] for path in BROKEN}
    assert counts == {
        "broken_fewer_micro_batches": [3],
        "broken_last_not_synced": [3],
        "broken_never_no_sync": [2],
        "broken_no_sync_around_backward": [2],
        "broken_on_one_rank_only": [3],
        "broken_own_tokens": [3],
        "broken_own_tokens_sharded": [3],
        "broken_short_tail": [1],
    }


def test_ranks_are_named_where_they_differ(report):
    messages = {path.stem: found_in(report, path)[0]["message"] for path in BROKEN}
    assert messages["broken_on_one_rank_only"].endswith(" Only on rank 1 of 2.")
    for name in ("broken_never_no_sync", "broken_short_tail"):
        assert "nly on rank" not in messages[name]
    assert messages["broken_fewer_micro_batches"] == (
        "One of the elements on rank 1 (8 in 2 backward passes) weighs 2.00 times as much as one on rank 0 "
        "(16 in 4 backward passes)."
    )
    assert "samples on rank 0 (32 in 3 backward passes) weighs 2.69 times" in messages["broken_own_tokens"]


def test_the_rules_own_examples(report):
    (found,) = found_in(report, Path("bad.py"))
    assert found["rule"] == "uneven-ranks"
    assert "# expect[ranks]: uneven-ranks" in EXAMPLES["bad.py"].splitlines()[found["location"]["line"] - 1]
    assert found_in(report, Path("good.py")) == []
