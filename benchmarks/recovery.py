"""Out of memory in the middle of a run: what is lost, ours beside Accelerate's ``find_executable_batch_size``.

Twenty updates of 64 samples; from the sixteenth on, samples are so long that micro-batches above 16 run out of memory
(injected, so that every run meets it alike). Accelerate's decorator lowers the batch size by a tenth and calls the
training function again from its beginning. Run it as ``python benchmarks/recovery.py``; the result is kept in
``benchmarks/results/recovery.json``.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import torch
from harness import CLOCKS, keep, machine
from torch import nn

import gradledger

NUM_UPDATES, EFFECTIVE, FIRST_LONG, MOST_LONG = 20, 64, 15, 16


class Work:
    """Counts samples that go forward, and runs out of memory above 16 of the long ones."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(128, 2048), nn.ReLU(), nn.Linear(2048, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.num_samples = 0

    def loss(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        self.num_samples += len(batch)
        if batch.size(1) > 8 and len(batch) > MOST_LONG:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return model(batch).square().mean()


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    lengths = [8] * FIRST_LONG + [32] * (NUM_UPDATES - FIRST_LONG)
    return [torch.randn(EFFECTIVE, length, 128, generator=generator) for length in lengths]


def undisturbed() -> Work:
    work = Work()
    for batch in batches():
        for piece in batch.split(MOST_LONG):
            (work.loss(work.model, piece) * (len(piece) / EFFECTIVE)).backward()
        work.optimizer.step()
        work.optimizer.zero_grad()
    return work


def ours() -> tuple[Work, int]:
    work = Work()
    accumulator = gradledger.Accumulator(work.model, work.optimizer)
    for batch in batches():
        accumulator.update(batch, work.loss, micro_batch_size=EFFECTIVE)
    return work, accumulator.num_updates


def accelerate() -> tuple[Work, int]:
    from accelerate.utils import find_executable_batch_size

    done: list[int] = []
    work = Work()

    @find_executable_batch_size(starting_batch_size=EFFECTIVE)
    def train(batch_size: int) -> None:
        fresh = Work()  # the function starts again, as its users are told to write it
        work.model, work.optimizer = fresh.model, fresh.optimizer
        for number, batch in enumerate(batches()):
            for piece in batch.split(batch_size):
                (work.loss(work.model, piece) * (len(piece) / EFFECTIVE)).backward()
            work.optimizer.step()
            work.optimizer.zero_grad()
            done.append(number)

    train()
    return work, len(done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    clock = CLOCKS[arguments.clock]
    warnings.simplefilter("ignore")
    undisturbed()
    start = clock()
    reference = undisturbed()
    plain_seconds = clock() - start
    weights = torch.cat([p.detach().flatten() for p in reference.model.parameters()])
    table: dict[str, Any] = {}
    for name, run in {"gradledger": ours, "accelerate": accelerate}.items():
        start = clock()
        work, num_updates = run()
        seconds = clock() - start
        own = torch.cat([p.detach().flatten() for p in work.model.parameters()])
        table[name] = {
            "updates_lost": num_updates - NUM_UPDATES,
            "samples_again": work.num_samples - NUM_UPDATES * EFFECTIVE,
            "seconds": seconds,
            "seconds_to_undisturbed": seconds / plain_seconds,
            "largest_weight_difference": float((own - weights).abs().max()),
        }
        print(name, table[name])
    print(
        keep(
            "recovery", {**machine("accelerate"), "num_updates": NUM_UPDATES, "clock": arguments.clock, "table": table}
        )
    )


if __name__ == "__main__":
    main()
