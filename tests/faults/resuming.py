"""SIGTERM at random points, inside windows too, of runs of many kinds; two accumulators with open windows."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from engine.test_engine_state import data, from_bytes, train_two, two_accumulators
from faults.killing import around_forward
from faults.runs import Case, judge, train, whole
from gradledger.train import Run
from gradledger.train.data import Data
from train.stopping import TERMINATE, small_data

_PLACE = re.compile(r"\d{6}-(update-\d{6}(?:-micro-batch-\d+)?)")

KINDS = (
    ("checkpoint_every=null",),
    ("tail=carry", "checkpoint_every=1"),
    ("tail=drop", "scheduler=plateau"),
    ("precision=16-mixed", "non_finite=skip-update"),
    ("precision=bf16-mixed", "optimizer=sgd", "optimizer.momentum=0.9", "scheduler=one-cycle"),
    ("non_finite=drop-micro-batch",),
    ("model=mlp", "model.hidden=[4,4]", "checkpointing=true", "offload=cpu"),
    ("data=faults.resuming:jittered",),
    ("data=faults.resuming:jittered", "num_workers=2"),
)


class Jittered(Dataset):
    """Samples with random noise: read in the training process or by workers."""

    def __len__(self) -> int:
        return 46

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(5) + random.random() + numpy.random.random()
        return torch.full((5,), float(number % 7)) + 0.1 * noise, torch.tensor(number % 3)


def jittered() -> Data:
    return replace(small_data(), train=Jittered())


def resumed_anywhere(folder: Path, part: float) -> Iterator[Case]:
    """A signal at a random forward, once or twice, and the run goes on."""
    expected, chooser = dict[int, Any](), random.Random(0)
    for number, kind in islice(cycle(enumerate(KINDS)), round(50 * part)):
        if number not in expected:
            expected[number] = whole(folder, *KINDS[number])
        output, told = folder / f"{number}-{len(list(folder.iterdir()))}", list[Any]()
        for at in (chooser.randint(1, 30), chooser.randint(1, 20), 10**9):
            ended = train(output, *kind, around=around_forward(at, _terminate))
            told += ended.told
            if ended.how != "done" or ended.value.exit != "terminated":
                break
        lines = " ".join(text for kind, text in told if kind == "line")
        yield replace(judge(ended, expected[number], told), point=", ".join(_PLACE.findall(lines)))


def _terminate(run: Run) -> None:
    run._interrupts.asked = TERMINATE


def several_accumulators(_folder: Path, part: float) -> Iterator[Case]:
    """Two accumulators with open windows, with a gradient scaler that they share and without, at every micro-batch."""
    batches = data((4,) * 24)
    for shares in (False, True):
        expected, accumulators = two_accumulators(_scaler(shares))
        train_two(expected, accumulators, [batches, batches])
        for point in range(1, 1 + round(24 * part)):
            nets, states = from_bytes(train_two(*two_accumulators(_scaler(shares)), [batches, batches], stop=point))
            resumed, others = two_accumulators(_scaler(shares))
            resumed.load_state_dict(nets)
            for accumulator, state in zip(others, states, strict=True):
                accumulator.load_state_dict(state)
            num_read = -(-point // 4) * 4
            train_two(resumed, others, [batches[num_read:], batches[num_read:]])
            pairs = zip(resumed.parameters(), expected.parameters(), strict=True)
            yield Case("right" if all(torch.equal(one, other) for one, other in pairs) else "wrong", note="")


def _scaler(shares: bool) -> torch.amp.GradScaler | None:
    return torch.amp.GradScaler("cpu", init_scale=2.0**10) if shares else None
