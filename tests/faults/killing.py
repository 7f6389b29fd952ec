"""``kill -9`` at random moments: at any operation on files, or halfway through it, at any forward, at any time."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from faults.disk import torn_disk, watched_disk
from faults.runs import Case, Ended, Tell, Trained, forked, judge, train, train_here, whole
from gradledger.train import Run
from gradledger.train.checkpoint.layout import CheckpointError
from gradledger.train.checkpoint.reading import read_checkpoint

_EVERY = ("checkpoint_every=1", "checkpoint_every=2", "checkpoint_every=epoch")


def die(_: Any = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at_any_moment(folder: Path, part: float) -> Iterator[Case]:
    """Kill a run once to three times, the ones that go on too, and let the last one come to its end."""
    expected = whole(folder)
    chooser = random.Random(0)
    hows = cycle(("operation", "torn operation", "forward", "time"))
    for number, how in enumerate(islice(hows, round(200 * part))):
        output, every, told = folder / str(number), chooser.choice(_EVERY), list[Any]()
        is_readable = True
        for _ in range(chooser.randint(1, 3)):
            ended = _killed(output, how, every, chooser)
            told += ended.told
            is_readable = is_readable and _latest_is_readable(output)
            if ended.how == "hang" or (ended.how == "done" and ended.value.exit != "finished"):
                break
        if ended.how == "killed":
            ended = train(output, every)
            told += ended.told
        case = judge(ended, expected, told)
        yield case if is_readable else Case("wrong", note=f"{how}: latest named a checkpoint that cannot be read")
        shutil.rmtree(output, ignore_errors=True)


def _latest_is_readable(output: Path) -> bool:
    latest = output / "run" / "checkpoints" / "latest"
    if not latest.exists():
        return True
    try:
        return bool(read_checkpoint(latest.with_name(latest.read_text().strip())))
    except CheckpointError:
        return False


def _killed(output: Path, how: str, every: str, chooser: random.Random) -> Ended:
    if how == "time":
        seconds = chooser.uniform(0.0, 0.6)
        return forked(lambda tell: train_here(output, every, tell=tell), kill_after_seconds=seconds)
    if how == "forward":
        return train(output, every, around=around_forward(chooser.randint(1, 57), die))
    at = chooser.randint(1, 140)

    def in_operations(tell: Tell) -> Trained:
        with torn_disk(at, die) if how == "torn operation" else watched_disk(_only(at, die)):
            return train_here(output, every, tell=tell)

    return forked(in_operations)


def _only(at: int, action: Callable[[], None]) -> Callable[[int], None]:
    return lambda number: action() if number == at else None


def around_forward(at: int, action: Callable[[Run], Any]) -> Callable[[Run], AbstractContextManager[None]]:
    """Around a run: an action at one of its forwards."""

    @contextmanager
    def around(run: Run) -> Iterator[None]:
        numbers = iter(range(1, 10**9))
        run.setup.model.register_forward_pre_hook(lambda *_: action(run) if next(numbers) == at else None)
        yield

    return around
