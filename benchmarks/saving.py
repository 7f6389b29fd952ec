"""What activation checkpointing saves and costs: peak memory and time of an update, beside torch's own by hand.

Run it as ``python benchmarks/saving.py``; the result is kept in ``benchmarks/results/saving.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from harness import CLOCKS, keep, machine, paired_rounds, ratios_to
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradledger
from gradledger.engine.memory.measuring import MemoryTracker

MICRO_BATCH, NUM_MICRO_BATCHES, LENGTH, WIDTH = 8, 4, 64, 64


class Reader(nn.Module):
    """A small transformer; ``by_hand`` checkpoints its layers as torch's documentation says."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(500, WIDTH)
        make = nn.TransformerEncoderLayer
        self.layers = nn.ModuleList([make(WIDTH, 4, 4 * WIDTH, batch_first=True) for _ in range(6)])
        self.head = nn.Linear(WIDTH, 500)
        self.by_hand = by_hand

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(ids)
        for layer in self.layers:
            hidden = checkpoint(layer, hidden, use_reentrant=False) if self.by_hand else layer(hidden)
        return self.head(hidden)


def loss_fn(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())


def updating(*, checkpointing: bool = False, by_hand: bool = False) -> tuple[nn.Module, Callable[[], Any]]:
    model = Reader(by_hand)
    accumulator = gradledger.Accumulator(
        model, torch.optim.AdamW(model.parameters(), lr=1e-3), checkpointing=checkpointing
    )
    batch = torch.randint(500, (MICRO_BATCH * NUM_MICRO_BATCHES, LENGTH), generator=torch.Generator().manual_seed(1))
    return model, lambda: accumulator.update(batch, loss_fn, micro_batch_size=MICRO_BATCH)


def peak_bytes(model: nn.Module, update: Callable[[], Any]) -> int:
    """Of an update with the optimizer's state in place."""
    with MemoryTracker(model.parameters()) as tracker:
        update()
        update()
    return int(tracker.peak_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    contenders = {
        "plain": updating(),
        "checkpointing=True": updating(checkpointing=True),
        "torch.utils.checkpoint by hand": updating(by_hand=True),
    }
    peaks = {name: peak_bytes(*contender) for name, contender in contenders.items()}
    updates = {name: update for name, (_, update) in contenders.items()}
    rounds = paired_rounds(updates, num_rounds=arguments.rounds, clock=CLOCKS[arguments.clock])
    table = ratios_to("plain", rounds)
    for name, row in table.items():
        row |= {"peak_bytes": peaks[name], "peak_ratio": peaks[name] / peaks["plain"]}
        print(f"{name:32} peak {peaks[name] / 1e6:6.2f} MB ({row['peak_ratio']:.2f} ×), time {row['ratio']:.2f} ×")
    settings = {"micro_batch": MICRO_BATCH, "rounds": arguments.rounds, "clock": arguments.clock}
    print(keep("saving", {**machine(), **settings, "table": table}))


if __name__ == "__main__":
    main()
