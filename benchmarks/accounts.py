"""What keeping accounts apart costs on a deep model: alone, and beside an unrelated account.

Run it as ``python benchmarks/accounts.py``; the result is kept in ``benchmarks/results/accounts.json``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from harness import keep, machine, paired_rounds, ratios_to
from torch import nn

import gradledger

DEPTH, WIDTH, STEPS = 100, 256, 4


def contender(*, has_neighbour: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(DEPTH)))
    head = nn.Linear(WIDTH, WIDTH)
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=1e-3), name="deep")
    data = [torch.randn(32, WIDTH) for _ in range(4 * STEPS)]

    def run() -> None:
        # The neighbour lives only while this contender runs, so that the others do not see it.
        other = None
        if has_neighbour:
            other = gradledger.Accumulator(head, torch.optim.SGD(head.parameters(), lr=1e-3), name="head")
        for window in accumulator.windows(data, steps=STEPS):
            with window:
                for inputs in window:
                    window.backward(model(inputs).square().mean())
        del other

    return run


def main() -> None:
    torch.set_num_threads(1)
    contenders = {
        "alone": contender(has_neighbour=False),
        "beside an unrelated account": contender(has_neighbour=True),
    }
    table = ratios_to("alone", paired_rounds(contenders, num_rounds=25))
    for name, row in table.items():
        print(f"{name:30} {row['ratio']:.3f} × ({row['low_quartile']:.3f}–{row['high_quartile']:.3f})")
    print(keep("accounts", {**machine(), "depth": DEPTH, "width": WIDTH, "steps": STEPS, "table": table}))


if __name__ == "__main__":
    main()
