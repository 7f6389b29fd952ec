"""Growth: time and memory of an update as the effective batch goes from 64 to 65,536 at a fixed micro-batch of 64.

Time should grow as the effective batch does, and memory not at all; at 64 the peak should be parameters, gradients,
optimizer state and one micro-batch, and no more. The whole batch and the hand-written loop are measured beside. Run it
as ``python benchmarks/growth.py``; the result is kept in ``benchmarks/results/growth.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from harness import CLOCKS, keep, machine
from torch import nn

import gradledger
from gradledger.engine.memory.measuring import MemoryTracker

MICRO_BATCH = 64
SIZES = [64 * 4**power for power in range(6)]


def make_model(fused: bool | None = None) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))
    return model, torch.optim.Adam(model.parameters(), fused=fused)


def loss_fn(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def ours() -> Callable[[Any], None]:
    accumulator = gradledger.Accumulator(*make_model())
    return lambda batch: accumulator.update(batch, loss_fn, micro_batch_size=MICRO_BATCH)


def hand_written(fused: bool | None = None) -> Callable[[Any], None]:
    model, optimizer = make_model(fused)

    def update(batch: Any) -> None:
        pieces = list(zip(batch[0].split(MICRO_BATCH), batch[1].split(MICRO_BATCH), strict=True))
        optimizer.zero_grad()
        for piece in pieces:
            (loss_fn(model, piece) / len(pieces)).backward()
        optimizer.step()

    return update


def whole() -> Callable[[Any], None]:
    model, optimizer = make_model()

    def update(batch: Any) -> None:
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        optimizer.step()

    return update


def measured(update: Callable[[Any], None], size: int, clock: Callable[[], float], held: int) -> dict[str, Any]:
    batch = torch.randn(size, 32), torch.randn(size, 1)
    update(batch)
    with MemoryTracker() as tracker:
        update(batch)
    times = []
    for _ in range(5):
        start = clock()
        update(batch)
        times.append(clock() - start)
    return {"seconds": min(times), "peak_bytes": held + tracker.peak_bytes}


def one_micro_batch() -> int:
    """The bytes of parameters, gradients, optimizer state and what one micro-batch takes when gradients are there.

    Its backward makes each layer's gradient anew before it is added, and then lets go of it.
    """
    model, _ = make_model()
    batch = torch.randn(MICRO_BATCH, 32), torch.randn(MICRO_BATCH, 1)
    loss_fn(model, batch).backward()
    with MemoryTracker() as tracker:
        loss_fn(model, batch).backward()
    return 4 * sum(p.numel() * 4 for p in model.parameters()) + tracker.peak_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    clock = CLOCKS[arguments.clock]
    parameter_bytes = sum(p.numel() * 4 for p in make_model()[0].parameters())
    held = 3 * parameter_bytes  # parameters and Adam's state, there before the measured update
    table: dict[str, Any] = {}
    contenders = {
        "whole batch": whole,
        "hand-written": hand_written,
        "hand-written, fused": partial(hand_written, fused=True),
        "gradledger": ours,
    }
    for name, make in contenders.items():
        update = make()
        table[name] = {size: measured(update, size, clock, held) for size in SIZES}
        for size, row in table[name].items():
            each = row["seconds"] / size * 1e6
            times = f"{row['seconds'] * 1e3:9.2f} ms ({each:6.2f} µs a sample)"
            print(f"{name:20} {size:6}   {times}   {row['peak_bytes']:>11} bytes")
    least = one_micro_batch()
    smallest, largest = (table["gradledger"][SIZES[end]] for end in (1, -1))
    summary = {
        "time_per_sample_largest_to_second": largest["seconds"] / smallest["seconds"] * SIZES[1] / SIZES[-1],
        "peak_largest_to_second": largest["peak_bytes"] / smallest["peak_bytes"],
        "peak_to_parameters_gradients_state_one_micro_batch": largest["peak_bytes"] / least,
        "peak_to_hand_written": largest["peak_bytes"] / table["hand-written"][SIZES[-1]]["peak_bytes"],
    }
    print(summary)
    print(
        keep("growth", {**machine(), "micro_batch": MICRO_BATCH, "clock": arguments.clock, "table": table, **summary})
    )


if __name__ == "__main__":
    main()
