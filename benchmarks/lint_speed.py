"""Speed of ``gradledger lint`` beside ruff and TorchFix on the same files.

Three trees: 1,000 ordinary files, taken evenly from this environment's site-packages; all of site-packages; and the
corpus of training loops, where every file holds one. Each contender is a process of its own, start-up included, without
caches, over the same list of files. Run it as ``python benchmarks/lint_speed.py``; the result is kept in
``benchmarks/results/lint_speed.json``. TorchFix pins another libcst, so it needs an environment of its own: give its
command with ``--torchfix PATH``. It sits out the largest tree, where it takes minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from harness import keep, machine, paired_rounds, ratios_to

NUM_ORDINARY = 1000
LIMIT_SECONDS = 20.0
"""What 1,000 ordinary files may take on two cores."""
CORPUS = Path(__file__).parents[1] / "tests" / "loops"


def trees() -> dict[str, list[Path]]:
    """The files of each tree."""
    everything = sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py"))
    step = max(1, len(everything) // NUM_ORDINARY)
    return {
        "1,000 ordinary files": everything[::step][:NUM_ORDINARY],
        "site-packages": everything,
        "corpus of loops": sorted(CORPUS.glob("*/*.py")),
    }


def contender(command: list[str], files: list[Path]) -> Callable[[], None]:
    """A run of a command over files; its findings are not looked at."""
    arguments = [*command, *map(str, files)]

    def run() -> None:
        ended = subprocess.run(arguments, capture_output=True, check=False)
        if ended.returncode > 1 and b"cannot be parsed" not in ended.stderr:
            raise RuntimeError(ended.stderr.decode()[-2000:])

    return run


def contenders(files: list[Path], torchfix: str | None) -> dict[str, Callable[[], None]]:
    """What is compared."""
    python = sys.executable
    ruff = [python, "-m", "ruff", "check", "--no-cache", "--isolated", "--quiet", "--exit-zero"]
    found = {
        "gradledger lint": contender([python, "-m", "gradledger", "lint", "--statistics"], files),
        "ruff check": contender(ruff, files),
    }
    if torchfix is not None and len(files) <= NUM_ORDINARY:
        found["torchfix"] = contender([torchfix], files)
    return found


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torchfix", help="the torchfix command of another environment")
    arguments = parser.parse_args()
    num_rounds = arguments.rounds
    result: dict[str, object] = {"machine": machine("ruff"), "rounds": num_rounds}
    for name, files in trees().items():
        seconds = paired_rounds(contenders(files, arguments.torchfix), num_rounds=num_rounds)
        table = ratios_to("ruff check", seconds)
        result[name] = {"num_files": len(files), "contenders": table}
        print(f"{name}: {len(files)} files")
        for contender_name, row in table.items():
            median = row["median_seconds"]
            rate = len(files) / median
            print(f"  {contender_name:16s} {median:7.2f} s  {rate:8.0f} files/s  {row['ratio']:6.2f} x ruff")
        if len(files) == NUM_ORDINARY:
            held = table["gradledger lint"]["median_seconds"] < LIMIT_SECONDS
            print(f"  under {LIMIT_SECONDS:.0f} s: {'yes' if held else 'no'}")
    print(f"kept in {keep('lint_speed', result)}")


if __name__ == "__main__":
    main()
