"""Feeds every reader of the package with bad input, and prints what became of it: ``python -m fuzz`` in ``tests``.

A case is made from its target's name and its number alone: ``--only "sources" --number 17`` repeats one, and shows it.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
sys.dont_write_bytecode = True

from fuzz import checkpoints, command_lines, configurations, ledger_text, own_code, run_directories, sources  # noqa: E402
from fuzz.case import PROBLEMS, Outcome, Target  # noqa: E402
from fuzz.executing import execute  # noqa: E402
from fuzz.good_input import make_good_input  # noqa: E402
from fuzz.judging import judge, snapshot  # noqa: E402

TARGETS = (
    Target("command lines", 14, command_lines.make),
    Target("configurations", 9, configurations.make),
    Target("run directories", 21, run_directories.make_run),
    Target("comparisons", 6, run_directories.make_comparison),
    Target("files of findings", 9, run_directories.make_findings),
    Target("ledger entries", 10, ledger_text.make),
    Target("checkpoints", 4, checkpoints.make),
    Target("sources", 22, sources.make_source),
    Target("folders and settings", 3, sources.make_folder),
    Target("own code", 2, own_code.make),
)
DEADLINE_SECONDS = 60.0


@dataclass
class Row:
    """What became of one target's cases.

    Args:
        counts: Cases, accepted, refused clearly, and each of the problems.
        examples: How often each kind of problem was met, and a case that shows it.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, str]] = field(default_factory=dict)
    seconds: float = 0.0
    slowest: tuple[float, int] = (0.0, 0)

    def add(self, number: int, outcome: Outcome) -> None:
        self.counts["cases"] += 1
        self.seconds += outcome.seconds
        self.slowest = max(self.slowest, (outcome.seconds, number))
        self.counts["accepted"] += outcome.accepted
        self.counts["refused clearly"] += not outcome.accepted and not outcome.problems
        self.counts.update(outcome.problems.keys())
        for name, detail in outcome.problems.items():
            kind = f"{name}: {_kind(detail)}"
            times, shown = self.examples.get(kind, (0, f"--number {number}: {name}: {detail[-1500:]}"))
            self.examples[kind] = (times + 1, shown)


_OWN_FRAME = re.compile(r'File ".*?(gradledger/[^"]+", line \d+)')


def _kind(detail: str) -> str:
    """What problems of one cause have in common: the last frame of this package, or the message without its values."""
    frames = _OWN_FRAME.findall(detail)
    last = detail.strip().rpartition("\n")[2]
    return f"{frames[-1]} {last.partition(':')[0]}" if frames else re.sub(r"[\d'\"].*", "", last)[:60]


COLUMNS = ("cases", "accepted", "refused clearly", *PROBLEMS)


def run_case(target: Target, number: int, good: Path, main: Callable[[], None], *, keep: bool = False) -> Outcome:
    """Make one case in a folder of its own, run it and judge it."""
    folder, begun = Path(tempfile.mkdtemp(prefix="fuzz-")), time.monotonic()
    try:
        work = folder / "work"
        for place in (work, folder / "home"):
            place.mkdir()
        case = target.make(Random(f"{target.name} {number}"), good, work)
        before = snapshot(work)
        ended = execute(case, main, folder, DEADLINE_SECONDS)
        if keep:
            print(f"{case}\nin {folder}, status {ended.status}\n{ended.stdout.decode(errors='replace')[-3000:]}")
            print(ended.stderr.decode(errors="replace")[-3000:])
        outcome = judge(case, ended, before, snapshot(work), work)
        outcome.seconds = time.monotonic() - begun
        return outcome
    except Exception:
        raise RuntimeError(f"{target.name}, number {number}: {traceback.format_exc()}") from None
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def campaign(targets: list[Target], num_cases: int, first: int, good: Path, main: Callable[[], None]) -> dict[str, Row]:
    """Run the cases of all targets, in as many processes as there are cores."""
    total = sum(target.share for target in targets)
    jobs = [(t, first + n) for t in targets for n in range(max(1, num_cases * t.share // total))]
    Random(0).shuffle(jobs)
    rows = {target.name: Row() for target in targets}
    gc.collect()
    gc.freeze()  # so that a fork copies little
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(os.cpu_count(), context, initializer=_limit_memory) as pool:
        outcomes = pool.map(partial(_job, good=good, main=main), jobs, chunksize=8)
        for num_done, (name, number, outcome) in enumerate(outcomes, start=1):
            rows[name].add(number, outcome)
            if num_done % 1000 == 0:
                print(f"{num_done} of {len(jobs)} cases", file=sys.stderr)
    return rows


def _limit_memory() -> None:
    """Of the making and the judging: a case limits its own."""
    most = 8 << 30
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _job(job: tuple[Target, int], *, good: Path, main: Callable[[], None]) -> tuple[str, int, Outcome]:
    target, number = job
    signal.alarm(int(2 * DEADLINE_SECONDS))  # a maker that reads what it put there would wait for ever
    return target.name, number, run_case(target, number, good, main)


def table(rows: dict[str, Row]) -> str:
    """The rows as they are printed, with a sum below."""
    width = max(map(len, rows))
    both = {**rows, "all": Row(counts=sum((row.counts for row in rows.values()), Counter()))}
    lines = [" | ".join([f"{'target':{width}}", *COLUMNS])]
    for name, row in both.items():
        lines.append(" | ".join([f"{name:{width}}", *(f"{row.counts[column]:{len(column)}}" for column in COLUMNS)]))
    return "\n".join(lines)


def command_line() -> Callable[[], None]:
    """The command line, with all that it imports late loaded already: a case is a fork of this process."""
    import sklearn.datasets  # noqa: F401
    import tensorboard.summary.writer.event_file_writer  # noqa: F401
    from scipy import stats  # noqa: F401

    import gradledger.auditor.ranks
    import gradledger.planner.page
    import gradledger.report.html
    import gradledger.train.comparison_view
    import gradledger.train.opening
    import gradledger.train.watching
    import gradledger.verifier.text
    from gradledger.cli import main
    from gradledger.rules import all_rules

    all_rules()
    gradledger.report.html._hash(gradledger.report.html._plotly())
    return main


def _keep(rows: dict[str, Row], seconds: float) -> None:
    sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
    from harness import keep, machine

    figures = {name: {column: row.counts[column] for column in COLUMNS} for name, row in rows.items()}
    keep("fuzz", {**machine(), "seconds": round(seconds), "table": figures})


def main() -> int:
    """Run a campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the number of each target's first case")
    parser.add_argument("--only", help="a target")
    parser.add_argument("--number", type=int, help="one case of it")
    parser.add_argument("--keep", action="store_true", help="write the table to benchmarks/results/fuzz.json")
    options = parser.parse_args()
    targets = [target for target in TARGETS if options.only in (None, target.name)]
    begun = time.monotonic()
    run = command_line()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-good-"))
    try:
        make_good_input(folder, run)
        print(f"good input made after {time.monotonic() - begun:.0f} s", file=sys.stderr)
        if options.number is not None:
            print(run_case(targets[0], options.number, folder / "work", run, keep=True).problems)
            return 0
        rows = campaign(targets, options.cases, options.first, folder / "work", run)
    finally:
        shutil.rmtree(folder)
    for name, row in rows.items():
        for times, example in row.examples.values():
            print(f'{times} × --only "{name}" {example}\n')
    print(table(rows))
    if options.keep:
        _keep(rows, time.monotonic() - begun)
    for name, row in rows.items():
        print(f"{name}: {row.seconds:.0f} s, the slowest {row.slowest[0]:.1f} s: number {row.slowest[1]}")
    print(f"{time.monotonic() - begun:.0f} s")
    return 1 if any(row.counts[name] for row in rows.values() for name in PROBLEMS) else 0


if __name__ == "__main__":
    sys.exit(main())
