"""``make faults``: does a fault after the other to training runs, and prints a table of what came of them.

Ends with status 1 where anything is wrong, lost beyond what is promised, or hangs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from faults.clocks import jumping_clocks
from faults.damage import damaged
from faults.disks import no_permission, refused_operations, small_disk
from faults.killing import killed_at_any_moment
from faults.memory_out import in_runs, in_updates
from faults.not_finite import not_finite
from faults.resuming import resumed_anywhere, several_accumulators
from faults.runs import Case, warm_up
from faults.two_ranks import killed_ranks, slow_rank, stopped_ranks

Cases = Callable[[Path, float], Iterator[Case]]

KINDS: dict[str, Cases] = {
    "kill -9 at a random moment, in training and in a save": killed_at_any_moment,
    "SIGTERM at a random point, inside windows too": resumed_anywhere,
    "two accumulators stopped inside their windows": several_accumulators,
    "out of memory in `Accumulator.update`": in_updates,
    "out of memory in a run, at every forward and backward": in_runs,
    "a loss that is not finite, under each policy": not_finite,
    "a full or read-only disk, at every fourth operation": refused_operations,
    "a small disk that is filled": small_disk,
    "permission lost": no_permission,
    "a checkpoint damaged in every byte region, cut, foreign, newer": damaged,
    "two ranks, SIGTERM on one or both killed at a random point": stopped_ranks,
    "two ranks, one killed under torchrun": killed_ranks,
    "two ranks, one slow": slow_rank,
    "clocks that jump, stand still or run backwards": jumping_clocks,
}


def row_of(cases: Cases, part: float) -> dict[str, Any]:
    """What one kind of fault comes to."""
    started, verdicts, num_lost, notes = time.perf_counter(), Counter[str](), 0, list[str]()
    points = list[str]()
    in_memory = Path("/dev/shm")  # where syncing takes no time: what is tried does not depend on it
    with tempfile.TemporaryDirectory(dir=in_memory if in_memory.is_dir() else None) as folder:
        for case in cases(Path(folder), part):
            verdicts[case.verdict] += 1
            num_lost += case.num_lost
            notes += [case.note] if case.note else []
            points += [case.point] if case.point else []
    counts = {verdict: verdicts[verdict] for verdict in ("right", "refused", "wrong", "hang")}
    seconds = round(time.perf_counter() - started, 1)
    return {
        "cases": verdicts.total(),
        **counts,
        "updates_lost": num_lost,
        "seconds": seconds,
        "notes": notes,
        "points": points,
    }


HEAD = ("fault", "cases", "right weights", "clear refusal", "updates lost", "wrong", "hangs")


def line_of(name: str, row: dict[str, Any]) -> str:
    """A line of the table."""
    cells = [row[key] for key in ("cases", "right", "refused", "updates_lost", "wrong", "hang")]
    return f"| {name} | {' | '.join(map(str, cells))} |"


def _machine() -> dict[str, Any]:
    versions = {name: version(name) for name in ("torch", "gradledger")}
    machine = {"processor": platform.processor() or platform.machine(), "num_cores": os.cpu_count()}
    return {"date": time.strftime("%Y-%m-%d"), **machine, "python": platform.python_version(), "versions": versions}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", type=float, default=1.0, help="of the cases of each kind that are tried")
    parser.add_argument("--only", default="", help="kinds of fault with this text in their name")
    parser.add_argument("--skip", help="no kinds with this text in their name")
    parser.add_argument("--output", type=Path, help="a JSON file for the table")
    arguments = parser.parse_args()
    warm_up()
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    table, gone_on_from = dict[str, Any](), dict[str, list[str]]()
    for name, cases in KINDS.items():
        if arguments.only in name and (arguments.skip is None or arguments.skip not in name):
            table[name] = row = row_of(cases, arguments.part)
            print(line_of(name, row), flush=True)
            gone_on_from[name] = row["points"]
            for note in row.pop("notes"):
                print(note, file=sys.stderr, flush=True)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps({**_machine(), "table": table}, indent=2) + "\n", encoding="utf-8")
    for name, points in gone_on_from.items():
        if points:
            print(f"\nPoints that were gone on from, {name}:\n{'; '.join(points)}\n", flush=True)
    num_bad = sum(row["wrong"] + row["hang"] + row["updates_lost"] for row in table.values())
    print(f"{sum(row['cases'] for row in table.values())} cases, {num_bad} of them bad", flush=True)
    return 1 if num_bad else 0


if __name__ == "__main__":
    sys.exit(main())
