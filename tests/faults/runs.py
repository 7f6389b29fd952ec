"""The run that faults are done to, in processes that may die: forked, so that each begins with torch already loaded."""

from __future__ import annotations

import json
import multiprocessing as mp
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

from gradledger.engine.memory.limits import is_out_of_memory
from gradledger.errors import UserError
from gradledger.metrics import import_torchmetrics
from gradledger.train import Run
from gradledger.train.resuming import FinishedError
from train.stopping import start, without_clocks

SETTINGS = (
    "model=train.stopping:Net", "micro_batch_size=4", "steps=3", "epochs=3", "optimizer=adamw", "optimizer.lr=0.05",
    "scheduler=cosine", "clip_norm=0.5",
)  # fmt: skip
"""12 micro-batches an epoch, the last one of 2 samples: 4 updates, and 3 evaluations of 3 micro-batches."""

_DEADLINE_SECONDS = 120.0

Verdict = Literal["right", "refused", "wrong", "hang"]


@dataclass(frozen=True)
class Case:
    """A fault and what came of it.

    Args:
        verdict: ``right``: the weights, metrics and ledger of an undisturbed run. ``refused``: a clear error, and the
            same after going on, where that is possible.
        num_lost: Updates that the last finished checkpoint held, and the run that went on did not.
        note: What was wrong.
        point: The checkpoints that were gone on from.
    """

    verdict: Verdict
    num_lost: int = 0
    note: str = ""
    point: str = ""


@dataclass
class Ended:
    """How a forked process ended.

    Args:
        how: ``done``: it returned. ``killed``: it was gone before. ``hang``: it had to be ended.
        value: What it returned.
        told: What it told on the way.
    """

    how: Literal["done", "killed", "hang"]
    value: Any = None
    told: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Trained:
    """What a run came to: how it ended, its clear error or traceback, and weights, metrics and ledger."""

    exit: str
    error: str
    came_to: Any


Tell = Callable[[Any], None]
Around = Callable[[Run], AbstractContextManager[Any]]


def undisturbed(_: Run) -> AbstractContextManager[None]:
    """Around a run that nothing is done to."""
    return nullcontext()


def warm_up() -> None:
    """Load what training loads when it is first used, so that forked processes have it."""
    import_torchmetrics()
    torch.set_num_threads(1)  # other threads would be missing in a forked process
    with tempfile.TemporaryDirectory() as folder:
        train_here(Path(folder), resume=None)


def forked(work: Callable[[Tell], Any], kill_after_seconds: float | None = None) -> Ended:
    """Do something in a process of its own."""
    context = mp.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(work, writer))
    process.start()
    writer.close()
    if kill_after_seconds is not None:
        time.sleep(kill_after_seconds)
        process.kill()
    ended, deadline = Ended("killed"), time.monotonic() + _DEADLINE_SECONDS
    try:
        while reader.poll(max(0.0, deadline - time.monotonic())):
            kind, value = reader.recv()
            if kind == "value":
                ended.how, ended.value = "done", value
                break
            ended.told.append(value)
        else:
            ended.how = "hang"
            process.kill()
    except EOFError:
        pass
    process.join()
    process.close()
    reader.close()
    return ended


def _work(work: Callable[[Tell], Any], writer: Connection) -> None:
    writer.send(("value", work(lambda value: writer.send(("told", value)))))


def train(output: Path, *overrides: str, resume: str | None = "auto", around: Around = undisturbed) -> Ended:
    """Begin a run in a process of its own, or go on with it; ``around`` is entered while it trains."""
    return forked(lambda tell: train_here(output, *overrides, resume=resume, around=around, tell=tell))


def train_here(
    output: Path,
    *overrides: str,
    resume: str | None = "auto",
    around: Around = undisturbed,
    tell: Tell = lambda _: None,
) -> Trained:
    """The same in this process; tells the updates of its checkpoints, and its lines."""
    try:
        run, state = start(output, (*SETTINGS, *overrides), resume, tell=lambda line: tell(("line", line)))
        tell(("resumed", 0 if state is None else state["passes"]["accumulator"]["num_updates"]))
        keeper = run.keeper
        assert keeper is not None
        save = keeper.save

        def told_save(state: Any, *, update: int, micro_batch: int | None) -> None:
            save(state, update=update, micro_batch=micro_batch)
            if keeper.latest is not None:
                tell(("saved", int(keeper.latest.name[14:20])))

        keeper.save = told_save  # type: ignore[method-assign]
        with around(run):
            exit = run.train(state).exit
        return Trained(exit, "", came_to(output))
    except FinishedError:
        return Trained("finished", "", came_to(output))
    except UserError as error:
        return Trained("refused", f"{type(error).__name__}: {error}", None)
    except Exception as error:
        is_clear = is_out_of_memory(error)
        return Trained("refused" if is_clear else "crashed", str(error) if is_clear else traceback.format_exc(), None)


def came_to(output: Path) -> tuple[Any, ...]:
    """What a run leaves in its files, but for what clocks and allocators say."""
    path = output / "run"
    metrics = [_record(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    weights = path / "checkpoints" / "model.safetensors"
    return weights.read_bytes() if weights.exists() else b"", metrics, (path / "ledger.jsonl").read_text()


def _record(line: str) -> Any:
    try:
        return without_clocks(json.loads(line))
    except ValueError:  # the last one, of a disk that was full to the end
        return line


def whole(folder: Path, *overrides: str) -> Any:
    """What an undisturbed run comes to."""
    ended = train(folder / "whole" / "-".join(overrides), *overrides, resume=None)
    assert ended.how == "done", ended
    assert ended.value.exit == "finished", ended
    return ended.value.came_to


def num_lost(told: Iterable[Sequence[Any]]) -> int:
    """The updates of the last finished checkpoint that those who went on did not go on from."""
    saved = lost = 0
    for kind, update in told:
        if kind == "saved":
            saved = max(saved, update)
        elif kind == "resumed" and update < saved:
            lost += saved - update
    return lost


def judge(last: Ended, expected: Any, told: Iterable[Sequence[Any]] = (), *, refused: bool = False) -> Case:
    """The case that ends with a process that should have come to what is expected."""
    if last.how == "hang":
        return Case("hang")
    if last.how != "done" or last.value.exit != "finished":
        return Case("wrong", note=str(last)[:2000])
    names = ("weights", "metrics", "ledger")
    unlike = [name for name, one, other in zip(names, last.value.came_to, expected, strict=True) if one != other]
    lost = num_lost(told)
    if unlike:
        return Case("wrong", lost, f"unlike: {', '.join(unlike)}")
    return Case("refused" if refused else "right", lost)
