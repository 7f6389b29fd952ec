"""Configured runs on several ranks, to compare with the same runs of one process."""

from __future__ import annotations

import math
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from gradledger.engine.parallel.ranks import Ranks
from gradledger.errors import UserError
from gradledger.train import Data, Observer, Run, load_config, prepare
from gradledger.train.data import characters
from gradledger.train.interrupts import Asked
from gradledger.train.models import transformer
from gradledger.train.ranks import RunRanks
from train.in_process import run_command


def sets(num_samples: int = 83, chance: bool = False, broken: int = -1) -> Data:
    """Samples to train on and 22 for validation, in float64; by chance another number on each rank; one may be NaN."""
    own = num_samples + (dist.get_rank() if chance and dist.is_initialized() else 0)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(own + 22, 6, generator=generator, dtype=torch.float64)
    labels = (inputs.sum(1) > 0).long() + (inputs[:, 0] > 1)
    if broken >= 0:
        inputs[broken] = math.nan
    sides = TensorDataset(inputs[:own], labels[:own]), TensorDataset(inputs[own:], labels[own:])
    return Data("classification", *sides, num_outputs=3, input_shape=(6,))


def listed() -> Data:
    """The same samples, one at a time."""

    class Listed(Dataset):
        def __init__(self, whole: Any) -> None:
            self.whole = whole

        def __len__(self) -> int:
            return len(self.whole)

        def __getitem__(self, index: int) -> Any:
            return self.whole[index]

    data = sets()
    return Data("classification", Listed(data.train), Listed(data.validation), num_outputs=3, input_shape=(6,))


def streamed() -> Data:
    """The same samples in their own order, without a length."""

    class Streamed(IterableDataset):
        def __init__(self, whole: Any) -> None:
            self.whole = whole

        def __iter__(self) -> Any:
            return (self.whole[index] for index in range(len(self.whole)))

    data = sets()
    return Data("classification", Streamed(data.train), Streamed(data.validation), num_outputs=3, input_shape=(6,))


def text() -> Data:
    """This file, a character at a time: the last piece is short, so micro-batches hold unlike numbers of tokens."""
    return characters(text=__file__, context_length=50)


def network(input_shape: Any = (6,), num_outputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def reader(input_shape: Any, num_outputs: int) -> nn.Module:
    return transformer(input_shape=input_shape, num_outputs=num_outputs, width=8, num_heads=2).double()


class Fragile(nn.Module):
    """A network that fails on one rank, at its so manieth forward."""

    def __init__(self, at: int, rank: int, in_evaluation: bool) -> None:
        super().__init__()
        self.inner = network()
        self.at, self.rank, self.in_evaluation = at, rank, in_evaluation
        self.num_forwards = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.num_forwards += self.training != self.in_evaluation
        if self.num_forwards == self.at and dist.get_rank() == self.rank:
            raise ValueError("disk on fire")
        return self.inner(inputs)


def fragile(*, at: int = 5, rank: int = 1, in_evaluation: bool = False, at_once: bool = False) -> nn.Module:
    if at_once and dist.get_rank() == rank:
        raise ValueError("no such weights")
    return Fragile(at, rank, in_evaluation)


class Recorder(Observer):
    """Keeps what a run tells; may fail, or press Ctrl-C, after an update."""

    def __init__(self, *, fail_at: int = 0) -> None:
        self.updates: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.saved: dict[str, Tensor] = {}
        self.summary: Any = None
        self._fail_at = fail_at

    def update(self, record: Any) -> None:
        self.updates.append(asdict(record))
        if record.update == self._fail_at:
            raise OSError("no space left")

    def evaluation(self, record: Any) -> None:
        self.evaluations.append({"split": record.split, **record.evaluation.as_record()})

    def weights(self, write: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            write(f"{folder}/weights")
            self.saved = load_file(f"{folder}/weights")

    def end(self, summary: Any) -> None:
        self.summary = summary


CONFIG = ("data=rank_runs:sets", "model=rank_runs:network", "optimizer.lr=0.1", "epochs=2", "micro_batch_size=5")


def train(ranks: RunRanks, overrides: tuple[str, ...], fail_at: int = 0) -> Recorder:
    setup = prepare(load_config(overrides=[*CONFIG, *overrides]), ranks=ranks)
    recorder = Recorder(fail_at=fail_at)
    Run(setup, [recorder]).train()
    return recorder


def all_ranks() -> RunRanks:
    assert dist.group.WORLD is not None
    return RunRanks(Ranks(dist.group.WORLD))


class TrainRun:
    """A whole run; what it comes to, or the error that it ends in."""

    def __init__(self, *overrides: str, fails_on: int | None = None) -> None:
        self.overrides = overrides
        self.fails_on = fails_on

    def __call__(self, rank: int, num_ranks: int) -> Any:
        try:
            return train(all_ranks(), self.overrides, fail_at=3 if rank == self.fails_on else 0)
        except (UserError, ValueError, OSError) as error:
            return f"{type(error).__name__}: {error}"


class InterruptedRun:
    """Ctrl-C on one rank, in the middle of its second window."""

    def __call__(self, rank: int, num_ranks: int) -> Any:
        setup = prepare(load_config(overrides=[*CONFIG, "parallel=fsdp2"]), ranks=all_ranks())
        recorder = Recorder()
        run = Run(setup, [recorder])
        num_forwards = 0

        def press(*_: Any) -> None:
            nonlocal num_forwards
            num_forwards += 1
            if rank == 1 and num_forwards == 6:
                run._interrupts.asked = Asked(interrupt=True)

        setup.model.register_forward_pre_hook(press)
        run.train()
        return recorder.summary.exit, recorder.summary.num_updates, len(recorder.saved)


class Command:
    """``gradledger train`` in a folder that the ranks share: status, output and errors of each, and the files."""

    def __init__(self, folder: str, *arguments: str) -> None:
        self.folder = folder
        self.arguments = arguments

    def __call__(self, rank: int, num_ranks: int) -> Any:
        @contextmanager
        def joined() -> Any:
            yield all_ranks()

        with mock.patch("gradledger.train.ranks.joined", joined):
            seen = run_command(self.folder, "train", *self.arguments)
        return seen.status, seen.out, seen.err
