"""Runs that are stopped at a chosen event and gone on with, and what a run comes to, to be compared bit by bit."""

import json
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from gradledger.train import Run, prepare
from gradledger.train.data import Data
from gradledger.train.interrupts import Asked
from gradledger.train.opening import load_state, open_run
from gradledger.train.resuming import check_same, load_run

TERMINATE = Asked(terminate=True)

NOT_THE_SAME = ("seconds", "peak_memory_bytes")
"""What a clock and an allocator say is told, but not promised."""


def small_data(num_samples=46):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_samples, 5, generator=generator)
    labels = torch.randint(3, (num_samples,), generator=generator)
    return Data(
        "classification", TensorDataset(inputs, labels), TensorDataset(inputs[:9], labels[:9]), 3, ("a", "b", "c"), (5,)
    )


class Stopper:
    """Counts forwards and optimizer steps, training and evaluating alike, and asks to stop at the given one."""

    def __init__(self, run, event=None, asked=TERMINATE):
        self.num_events = 0
        self._run, self._event, self._asked = run, event, asked
        run.setup.model.register_forward_pre_hook(lambda *_: self._count())
        run.setup.optimizer.register_step_post_hook(lambda *_: self._count())

    def _count(self):
        self.num_events += 1
        if self.num_events == self._event:
            self._run._interrupts.asked = self._asked


def start(output, overrides=(), resume=None, data=None, tell=lambda line: None):
    """A run from its configuration, new or gone on with, and the state that it goes on from."""
    settings = ["device=cpu", f"output={output}", "name=run", *overrides]
    config, resumption = load_run(None, settings, resume)
    setup = prepare(config, data or small_data())
    state = None
    if resumption is not None:
        check_same(setup.config, resumption)
        tell(resumption.describe())
        state = load_state(resumption, setup)
    opened = open_run(setup, resumption, tell)
    return Run(setup, [opened.files], keeper=opened.keeper), state


def came_to(run, output):
    """Parameters, buffers and every line of the run's files, but for what clocks and allocators say."""
    path = Path(output) / "run"
    weights = {name: value.tolist() for name, value in run.setup.model.state_dict().items()}
    metrics = [without_clocks(json.loads(line)) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return weights, metrics, (path / "ledger.jsonl").read_text()


def without_clocks(record):
    return {key: value for key, value in record.items() if key not in NOT_THE_SAME}


class Net(nn.Module):
    """Dropout, batch normalisation, and a tied weight."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(5, 5)
        self.norm = nn.BatchNorm1d(5)
        self.outer = nn.Linear(5, 3)
        self.tied = self.inner.weight

    def forward(self, inputs):
        return self.outer(nn.functional.dropout(self.norm(self.inner(inputs)), 0.2, self.training))
