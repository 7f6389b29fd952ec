"""A rank that ends where the others cannot be told ends them all the same, promptly, with where to look."""

import signal

import pytest
from rank_cases import shard
from rank_ends import Ending, die, fail, leave, run_out_of_memory
from spawning import end_on_ranks

CASES = {
    "error in the reducing micro-batch": (Ending(fail, position=2), 1, "ValueError: disk on fire"),
    "exit in the reducing micro-batch": (Ending(leave, position=2), 1, "SystemExit: 3"),
    "out of memory in the reducing backward": (Ending(run_out_of_memory, position=2), 1, "OutOfMemoryError: CUDA out"),
    "killed": (Ending(die, position=1), -signal.SIGKILL, ""),
    "error between windows": (Ending(fail, position=-1), 1, "ValueError: disk on fire"),
    "error in a sharded forward": (Ending(fail, position=1, wrap=shard), 1, "ValueError: disk on fire"),
}


@pytest.mark.parametrize("name", CASES)
def test_no_rank_waits_for_one_that_has_ended(name):
    case, status, message = CASES[name]
    (first, told), (second, own) = end_on_ranks(2, case)
    assert (first, second) == (1, status), f"{told}\n{own}"
    assert message in own
    assert "RankError: at the " in told
    assert "another rank could not be reached" in told
    assert "its process has ended, and what it wrote says why" in told


def test_three_ranks_end_with_one():
    (first, told), (second, own), (third, told_too) = end_on_ranks(3, Ending(fail, position=2))
    assert (first, second, third) == (1, 1, 1)
    assert "RankError" in told
    assert "RankError" in told_too
