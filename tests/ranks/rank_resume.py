"""Runs of several ranks that are stopped or given up anywhere, and gone on with by as many ranks or others."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any
from unittest import mock

import torch.distributed as dist
from rank_runs import Command, Recorder, all_ranks
from torch import Tensor, nn

import gradledger
from gradledger.errors import UserError
from gradledger.train import Run, prepare
from gradledger.train.interrupts import Asked
from gradledger.train.opening import load_state, open_run
from gradledger.train.ranks import RunRanks
from gradledger.train.resuming import check_same, load_run
from train.stopping import without_clocks

SETTINGS = (
    "data=rank_runs:sets", "model=rank_resume:noisy", "optimizer=adamw", "optimizer.lr=0.05", "scheduler=cosine",
    "clip_norm=0.5", "epochs=2", "micro_batch_size=5", "effective_batch_size=30", "device=cpu", "name=run",
)  # fmt: skip
"""17 micro-batches an epoch, the last one of 3 samples: 3 updates, the last one of a tail that ranks share unevenly."""


def noisy(input_shape: Any = (6,), num_outputs: int = 3) -> nn.Module:
    """Draws random numbers and moves buffers, on each rank in its own way."""
    layers = nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Dropout(0.2), nn.Tanh(), nn.Linear(7, 3)
    return nn.Sequential(*layers).double()


def plain(input_shape: Any = (6,), num_outputs: int = 3) -> nn.Module:
    """Comes to the same on any number of ranks."""
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3)).double()


class Watcher:
    """Counts this rank's forwards, of training and evaluation, and does something at some of them."""

    def __init__(self, run: Run, actions: Mapping[int, Callable[[Run], None]]) -> None:
        self.num_forwards = 0
        self._run, self._actions = run, actions
        run.setup.model.register_forward_pre_hook(lambda *_: self._count())

    def _count(self) -> None:
        self.num_forwards += 1
        self._actions.get(self.num_forwards, lambda _: None)(self._run)


def terminate(run: Run) -> None:
    """As SIGTERM does."""
    run._interrupts.asked = Asked(terminate=True)


def wait(run: Run) -> None:
    """As the second rank does if its machine is busy."""
    if run.setup.ranks.rank == 1:
        time.sleep(0.2)


def copy_to(source: str, target: str) -> Callable[[Run], None]:
    """Keep the files as they are at this moment: what a rank that is killed would leave."""
    return lambda _: shutil.copytree(source, target)


def start(
    output: str,
    *overrides: str,
    ranks: RunRanks,
    resume: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Run, Any, Recorder]:
    config, resumption = load_run(None, [*SETTINGS, f"output={output}", *overrides], resume, ranks.size)
    setup = prepare(config, ranks=ranks)
    state = None
    if resumption is not None:
        check_same(setup.config, resumption)
        state = load_state(resumption, setup)
    opened = open_run(setup, resumption, tell)
    recorder = Recorder()
    return Run(setup, [opened.files, recorder], keeper=opened.keeper), state, recorder


def came_to(recorder: Recorder, output: str, ranks: RunRanks) -> Any:
    """Weights (on the first rank), and every line of this rank's files but for what clocks and allocators say."""
    path = Path(output, "run")
    ledger = path / (f"ledger-rank-{ranks.rank}.jsonl" if ranks.rank else "ledger.jsonl")
    metrics = [without_clocks(json.loads(line)) for line in (path / "metrics.jsonl").read_text().splitlines()]
    weights = {name: tensor.tolist() for name, tensor in recorder.saved.items()}
    return weights, metrics, ledger.read_text()


def train(
    output: str,
    *overrides: str,
    ranks: RunRanks,
    resume: str | None = None,
    actions: Mapping[int, Any] = MappingProxyType({}),
) -> Any:
    """Train to the end, or to where the run is stopped; how it ended, what it came to, and its forwards."""
    with ranks.telling():
        run, state, recorder = start(output, *overrides, ranks=ranks, resume=resume)
        watcher = Watcher(run, actions)
        exit = run.train(state).exit
        ranks.total("comparison")
        return exit, came_to(recorder, output, ranks), watcher.num_forwards


class RandomPoints:
    """Stop at random points, by SIGTERM on one rank or as if killed, and compare with the run that was not stopped.

    Args:
        folder: For the runs, shared by all ranks.
        num_points: How many of each kind.
        overrides: Of the configuration.
        seed: Chooses the points.
    """

    def __init__(self, folder: str, num_points: int, *overrides: str, seed: int = 0) -> None:
        self.folder, self.num_points, self.overrides, self.seed = folder, num_points, overrides, seed

    def __call__(self, rank: int, num_ranks: int) -> Any:
        """The checkpoints gone on from, and the points from which something else came out."""
        self._ranks, chooser = all_ranks(), random.Random(self.seed)
        exit, expected, num_forwards = self._train("whole")
        assert exit == "finished"
        points = range(1, min(self._ranks.gather(num_forwards, "comparison")))
        killed = {at: f"killed-{at}" for at in chooser.sample(points, self.num_points)}
        copies = {at: copy_to(f"{self.folder}/again", f"{self.folder}/{name}") for at, name in killed.items()}
        found = {"again": self._train("again", actions=copies if rank == 0 else {})[1]}
        for at in chooser.sample(points, self.num_points):
            actions = {at: terminate} if chooser.randrange(num_ranks) == rank else {}
            exit, found[f"stopped-{at}"], _ = self._train(f"stopped-{at}", actions=actions)
            if exit == "terminated":  # where it comes after the last window, the run ends
                killed[at + points.stop] = f"stopped-{at}"
        places = {name: latest(f"{self.folder}/{name}") for name in killed.values()}
        found |= {name: self._train(name, resume="auto")[1] for name in killed.values()}
        return places, [name for name, each in found.items() if each != expected]

    def _train(self, name: str, **options: Any) -> Any:
        self._ranks.total("start")
        return train(f"{self.folder}/{name}", *self.overrides, ranks=self._ranks, **options)


def latest(output: str) -> str:
    """The newest checkpoint of a run."""
    file = Path(output, "run", "checkpoints", "latest")
    return file.read_text().strip() if file.exists() else ""


class Training:
    """One run, of a model that comes to the same on any number of ranks."""

    def __init__(self, folder: str, *overrides: str, **options: Any) -> None:
        self.folder, self.overrides, self.options = folder, overrides, options

    def __call__(self, rank: int, num_ranks: int) -> Any:
        """How it ended and what it came to, or the error."""
        ranks = all_ranks() if num_ranks > 1 else RunRanks()
        try:
            return train(self.folder, "model=rank_resume:plain", *self.overrides, ranks=ranks, **self.options)[:2]
        except UserError as error:
            return f"{type(error).__name__}: {error}"


class Unshared:
    """A run whose second rank does not see the directory of the first; the lines that the first one tells."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, rank: int, num_ranks: int) -> Any:
        lines: list[str] = []
        with mock.patch("gradledger.train.opening._identity", return_value=None) if rank else nullcontext():
            run, _, _ = start(self.folder, ranks=all_ranks(), tell=lines.append)
            return run.train().exit, lines, run.keeper is None


class FullDisk:
    """A run during which the second rank finds its disk full, once; then it is gone on with, if it stopped.

    Args:
        folder: For the run.
        operation: What fails, by its full name.
        at: At which call.
        overrides: Of the configuration.
    """

    def __init__(self, folder: str, operation: str, at: int, *overrides: str) -> None:
        self.folder, self.operation, self.at, self.overrides = folder, operation, at, overrides

    def __call__(self, rank: int, num_ranks: int) -> Any:
        """How the first run ended, and what the last one came to."""
        with mock.patch(self.operation, self._failing()) if rank == 1 else nullcontext():
            first = Training(self.folder, *self.overrides)(rank, num_ranks)
        if first[0] == "finished":
            return first
        return first, Training(self.folder, *self.overrides, resume="auto")(rank, num_ranks)[1]

    def _failing(self) -> Callable[..., Any]:
        original, numbers = resolve_name(self.operation), count(1)

        def fail_at(*arguments: Any, **options: Any) -> Any:
            if next(numbers) == self.at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*arguments, **options)

        return fail_at


class Mortal(nn.Module):
    """One rank's process is killed at one of its forwards, unless it has been already."""

    def __init__(self, at: int, rank: int) -> None:
        super().__init__()
        self.inner = noisy()
        self.at, self.rank, self.num_forwards = at, rank, 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.num_forwards += 1
        if self.num_forwards == self.at and dist.get_rank() == self.rank and not MARK.exists():
            MARK.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner(inputs)


MARK = Path("killed")
"""In the working directory, after a process was killed."""


def mortal(*, at: int = 21, rank: int = 1) -> nn.Module:
    return Mortal(at, rank)


MORTAL = (
    "data=rank_runs:sets", "model=rank_resume:mortal", "micro_batch_size=5", "effective_batch_size=30", "epochs=4",
    "name=one", "optimizer.lr=0.05",
)  # fmt: skip


def restarted(folder: Path, *overrides: str, deadline_seconds: float = 280) -> subprocess.CompletedProcess[str]:
    """Two ranks under torchrun, one of which is killed once; all are started again."""
    arguments = [text for override in (*MORTAL, *overrides) for text in ("--set", override)]
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (Path(gradledger.__file__).parents[1], here, here.parent)))
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1",
         "-m", "gradledger", "train", *arguments, "--resume", "auto"],
        cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}, capture_output=True, text=True,
        timeout=deadline_seconds,
    )  # fmt: skip


class Immortal:
    """The same in processes that are not killed.

    Args:
        folder: The working directory.
    """

    def __init__(self, folder: Path) -> None:
        (folder / MARK).touch()
        self.command = Command(str(folder), *(text for override in MORTAL for text in ("--set", override)))

    def __call__(self, rank: int, num_ranks: int) -> Any:
        return self.command(rank, num_ranks)[0]


def files(folder: Path) -> Any:
    """Weights, metrics but for clocks, and ledgers."""
    run = folder / "runs" / "one"
    metrics = [without_clocks(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]
    ledgers = [(run / name).read_text() for name in ("ledger.jsonl", "ledger-rank-1.jsonl")]
    return (run / "checkpoints" / "model.safetensors").read_bytes(), metrics, ledgers
