"""Ranks that end where the others cannot be told: they are inside a collective, or between windows."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import torch
from rank_cases import IGNORED, loaders, make, replicate, token_mean

import gradledger


class Ending:
    """Rank 1 does something at a place of its second window; -1 is after it."""

    def __init__(self, how: Any, *, position: int, wrap: Any = replicate) -> None:
        self.how = how
        self.position = position
        self.wrap = wrap

    def __call__(self, rank: int, num_ranks: int) -> None:
        model, _ = make(self.wrap)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        accumulator = gradledger.Accumulator(model, optimizer, weight=gradledger.tokens(IGNORED))
        loader = loaders(num_ranks, lengths=(9, 9, 9))[rank]
        for number, window in enumerate(accumulator.windows(loader, steps=3)):
            with window:
                for position, (inputs, labels) in enumerate(window):
                    loss = token_mean(model, inputs, labels)
                    if rank == 1 and (number, position) == (1, self.position):
                        self.how(loss)
                    window.backward(loss)
            if rank == 1 and number == 1 and self.position == -1:
                self.how(loss)


def fail(loss: torch.Tensor) -> None:
    raise ValueError("disk on fire")


def leave(loss: torch.Tensor) -> None:
    sys.exit(3)


def die(loss: torch.Tensor) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_out_of_memory(loss: torch.Tensor) -> None:
    """In the backward that reduces."""

    def refuse(_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")

    loss.register_hook(refuse)
