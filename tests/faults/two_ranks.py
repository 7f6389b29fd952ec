"""Two ranks: stopped or killed anywhere, one of them slow, one of them killed under torchrun."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from faults.runs import Case

sys.path.insert(0, str(Path(__file__).parents[1] / "ranks"))  # as pytest has it for the tests there

from rank_resume import Immortal, RandomPoints, Training, files, restarted, wait
from spawning import run_on_ranks

MOST_FORWARDS = 14


def stopped_ranks(folder: Path, part: float) -> Iterator[Case]:
    """SIGTERM on one rank, or all files as a killed rank leaves them, at random forwards, of DDP and FSDP2."""
    num_points = max(1, round(28 * part))
    cases = {
        name: RandomPoints(f"{folder}/{name}", num_points, f"parallel={name}", "epochs=4") for name in ("ddp", "fsdp2")
    }
    for name, of_ranks in run_on_ranks(2, cases).items():
        failed = [result for result in of_ranks if isinstance(result, str)]
        if failed:
            yield Case("wrong", note=f"{name}: {failed[0]}")
            continue
        points, unlike = of_ranks[0]
        for point, place in points.items():
            is_right = not any(point in result[1] for result in of_ranks)
            yield Case("right" if is_right else "wrong", note="" if is_right else f"{name}: {point}", point=place)
        yield from (Case("wrong", note=f"{name}: {each}") for each in unlike if each not in points)


def slow_rank(folder: Path, part: float) -> Iterator[Case]:
    """One rank comes late to everything after one of its forwards."""
    chooser = random.Random(0)
    cases = {"whole": Training(f"{folder}/whole")}
    for number in range(max(1, round(6 * part))):
        cases[str(number)] = Training(f"{folder}/{number}", actions={chooser.randint(1, MOST_FORWARDS): wait})
    results = run_on_ranks(2, cases)
    for name in cases.keys() - {"whole"}:
        is_right = results[name] == results["whole"]
        yield Case("right") if is_right else Case("wrong", note=f"{name}: {results[name]}"[:1000])


def killed_ranks(folder: Path, part: float) -> Iterator[Case]:
    """``kill -9`` on a rank: torchrun starts both again, and they go on from the last checkpoint."""
    (folder / "whole").mkdir()
    assert run_on_ranks(2, {"": Immortal(folder / "whole")})[""] == [0, 0]
    expected, chooser = files(folder / "whole"), random.Random(0)
    for number in range(round(6 * part)):
        output = folder / str(number)
        output.mkdir()
        point = f"model.at={chooser.randint(2, 50)}", f"model.rank={number % 2}"
        try:
            ended = restarted(output, *point)
        except subprocess.TimeoutExpired:
            yield Case("hang", note=str(point))
            continue
        is_right = ended.returncode == 0 and files(output) == expected
        yield Case("right") if is_right else Case("wrong", note=f"{point}: {ended.stderr[-1000:]}")
