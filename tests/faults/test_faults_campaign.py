"""A short form of ``make faults``: every kind of fault, with fewer cases."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from faults import campaign
from faults.runs import Case

DEADLINE_SECONDS = 280
TESTS = Path(__file__).parents[1]


@pytest.mark.slow
def test_nothing_is_wrong_or_lost_after_any_fault():
    """Ranks have tests of their own; processes are forked from one without the threads that pytest has."""
    ended = subprocess.run(
        [sys.executable, "-m", "faults.campaign", "--part", "0.05", "--skip", "two ranks"],
        cwd=TESTS, capture_output=True, text=True, timeout=DEADLINE_SECONDS,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(re.findall(r"^\|.*\| 0 \| 0 \| 0 \|$", ended.stdout, re.MULTILINE)) == len(campaign.KINDS) - 3


@pytest.mark.parametrize(
    ("case", "line", "status"),
    [
        (Case("right"), "| it | 1 | 1 | 0 | 0 | 0 | 0 |", 0),
        (Case("refused"), "| it | 1 | 0 | 1 | 0 | 0 | 0 |", 0),
        (Case("right", num_lost=2), "| it | 1 | 1 | 0 | 2 | 0 | 0 |", 1),
        (Case("wrong", note="weights"), "| it | 1 | 0 | 0 | 0 | 1 | 0 |", 1),
        (Case("hang"), "| it | 1 | 0 | 0 | 0 | 0 | 1 |", 1),
    ],
)
def test_the_table_and_the_status_say_what_came_of_it(case, line, status, monkeypatch, capsys):
    monkeypatch.setattr(campaign, "KINDS", {"it": lambda folder, part: iter([case])})
    monkeypatch.setattr(campaign, "warm_up", lambda: None)
    monkeypatch.setattr(sys, "argv", ["campaign"])
    assert campaign.main() == status
    told = capsys.readouterr()
    assert line in told.out.splitlines()
    assert case.note in told.err
