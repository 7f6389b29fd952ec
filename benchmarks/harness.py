"""What every benchmark shares: paired rounds, the machine, and results kept as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def paired_rounds(
    contenders: Mapping[str, Callable[[], Any]], *, num_rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each contender in each round. A round runs all of them, so that they see the same machine.

    On a machine that others use, ``clock=time.process_time`` counts the seconds that the processor gave to this one.
    """
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(num_rounds):
        for name in names if number % 2 == 0 else reversed(names):
            start = clock()
            contenders[name]()
            seconds[name].append(clock() - start)
    return seconds


def ratios_to(baseline: str, seconds: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    """Per contender the median of the rounds' ratios to the baseline, with their quartiles."""
    table = {}
    for name, own in seconds.items():
        ratios = [mine / theirs for mine, theirs in zip(own, seconds[baseline], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        table[name] = {
            "ratio": round(middle, 4),
            "low_quartile": round(low, 4),
            "high_quartile": round(high, 4),
            "median_seconds": statistics.median(own),
        }
    return table


def machine(*packages: str) -> dict[str, Any]:
    """The machine and the versions that a result was measured with."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": platform.processor() or platform.machine(),
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "gradledger", *packages)},
    }


def keep(name: str, result: Mapping[str, Any]) -> Path:
    """Write a result to ``benchmarks/results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return path
