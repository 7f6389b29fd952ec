"""What an audit costs: the same training with and without one, on a tiny model and on one of 20 ms a micro-batch.

Processor time of one thread, so that other work on the machine does not count; each round trains without and with an
audit, and the ratio is the median over rounds. Beginning and ending an audit (patching, judging) is measured apart: it
is paid once. Run it as ``python benchmarks/audit_overhead.py``; the result is kept in
``benchmarks/results/audit_overhead.json``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from harness import keep, machine, ratios_to
from torch import nn

import gradledger

STEPS = 4


def tiny() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), torch.randn(16, 64)


def transformer() -> tuple[nn.Module, torch.Tensor]:
    """Twelve layers, 146 parameters: the bookkeeping per parameter of a real model."""
    layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True, dropout=0.0)
    model = nn.Sequential(nn.TransformerEncoder(layer, 12), nn.Linear(128, 10))
    return model, torch.randn(4, 16, 128)


def training(make: Callable[[], tuple[nn.Module, torch.Tensor]]) -> Callable[[int], None]:
    torch.manual_seed(0)
    model, x = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    y = torch.randint(10, x.shape[:-1]).flatten()

    def run(num_updates: int) -> None:
        for _ in range(num_updates):
            for _ in range(STEPS):
                logits = model(x).flatten(0, -2)
                (nn.functional.cross_entropy(logits, y) / STEPS).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return run


def measure(
    run: Callable[[], None], first_update: Callable[[], None], num_rounds: int
) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of each round alone and audited, and what beginning and ending the audit took."""
    seconds: dict[str, list[float]] = {"alone": [], "audited": []}
    fixed = []
    run()
    for _ in range(num_rounds):
        start = time.process_time()
        run()
        seconds["alone"].append(time.process_time() - start)
        begin = time.process_time()
        with gradledger.audit() as auditor:
            first_update()  # graphs are surveyed in the first few micro-batches only
            start = time.process_time()
            run()
            end = time.process_time()
        assert auditor.findings == []
        seconds["audited"].append(end - start)
        fixed.append(time.process_time() - end + start - begin)
    return seconds, fixed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--keep", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models = {}
    for name, make, num_updates in (("tiny", tiny, 100), ("transformer", transformer, 4)):
        train = training(make)
        seconds, fixed = measure(partial(train, num_updates), partial(train, 1), arguments.rounds)
        row = ratios_to("alone", seconds)["audited"]
        num_micro_batches = num_updates * STEPS
        alone = statistics.median(seconds["alone"]) / num_micro_batches
        extra = statistics.median(b - a for a, b in zip(seconds["alone"], seconds["audited"], strict=True))
        models[name] = {
            **row,
            "milliseconds_per_micro_batch": round(alone * 1e3, 3),
            "extra_microseconds_per_micro_batch": round(extra / num_micro_batches * 1e6, 1),
            "begin_and_end_seconds": round(statistics.median(fixed), 3),
        }
        print(name, models[name])
    if arguments.keep:
        print(keep("audit_overhead", {**machine(), "rounds": arguments.rounds, "steps": STEPS, "models": models}))


if __name__ == "__main__":
    main()
