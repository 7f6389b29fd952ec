"""Clocks that jump: nothing depends on them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from faults.runs import Case, Tell, Trained, forked, judge, train_here, whole

_CLOCKS = ("time", "monotonic", "perf_counter")


def jumping_clocks(folder: Path, part: float) -> Iterator[Case]:
    """Every clock that Python code reads jumps by years at each reading, or stands still, or runs backwards."""
    expected = whole(folder)
    for number in range(max(3, round(12 * part))):
        clock = (_by_years(number), _still, _backwards())[number % 3]
        yield judge(forked(lambda tell, clock=clock, n=number: _train(folder / str(n), clock, tell)), expected)


def _train(output: Path, clock: Callable[[], float], tell: Tell) -> Trained:
    imported = mock.patch("gradledger.train.passes.perf_counter", clock)
    with mock.patch.multiple("time", **dict.fromkeys(_CLOCKS, clock)), imported:
        return train_here(output, "checkpoint_every=2", tell=tell)


def _by_years(seed: int) -> Callable[[], float]:
    chooser = random.Random(seed)
    return lambda: 1.7e9 + chooser.uniform(-1e9, 1e9)


def _still() -> float:
    return 1.7e9


def _backwards() -> Callable[[], float]:
    present = iter(range(10**9))
    return lambda: 1.7e9 - next(present)
