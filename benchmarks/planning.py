"""Whether ``plan`` recommends what is fastest: its choice against real updates of every size, on three models.

Run it as ``python benchmarks/planning.py``; the result is kept in ``benchmarks/results/planning.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from harness import CLOCKS, keep, machine, paired_rounds
from torch import nn

import gradledger

EFFECTIVE = 128


def perceptron() -> tuple[nn.Module, Any]:
    model = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 10))
    return model, (torch.randn(EFFECTIVE, 256), torch.randint(10, (EFFECTIVE,)))


def convolutions() -> tuple[nn.Module, Any]:
    layers = nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 49, 10)
    return nn.Sequential(*layers), (torch.randn(EFFECTIVE, 3, 16, 16), torch.randint(10, (EFFECTIVE,)))


def language() -> tuple[nn.Module, Any]:
    layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model = nn.Sequential(nn.Embedding(500, 32), encoder, nn.Flatten(), nn.Linear(32 * 32, 10))
    return model, (torch.randint(500, (EFFECTIVE, 32)), torch.randint(10, (EFFECTIVE,)))


def loss_fn(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def updating(accumulator: gradledger.Accumulator, batch: Any, size: int) -> Callable[[], Any]:
    return lambda: accumulator.update(batch, loss_fn, micro_batch_size=size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    table = {}
    for make in (perceptron, convolutions, language):
        torch.manual_seed(0)
        model, batch = make()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        plan = gradledger.plan(model, loss_fn, batch, optimizer=optimizer)
        accumulator = gradledger.Accumulator(model, optimizer)
        contenders = {
            str(row.micro_batch_size): updating(accumulator, batch, row.micro_batch_size) for row in plan.rows
        }
        rounds = paired_rounds(contenders, num_rounds=arguments.rounds, clock=CLOCKS[arguments.clock])
        seconds = {size: min(times) for size, times in rounds.items()}
        assert plan.recommended is not None
        chosen = str(plan.recommended.micro_batch_size)
        part = min(seconds.values()) / seconds[chosen]
        table[make.__name__] = {"recommended": int(chosen), "part_of_best_throughput": part, "seconds": seconds}
        print(f"{make.__name__:14} recommends {chosen:>4}: {part:.3f} of the best measured throughput")
    settings = {"effective_batch": EFFECTIVE, "rounds": arguments.rounds, "clock": arguments.clock}
    print(keep("planning", {**machine(), **settings, "table": table}))


if __name__ == "__main__":
    main()
