"""Exactness: the gradient that each tool steps with, against the whole batch's in float64, on the same tasks.

Every contender gets ready micro-batches, the same model, and an optimizer that keeps the gradients that it is handed
and moves nothing. Contenders are written as their own documentation shows, and once more with gradledger's adapter.
Run it as ``python benchmarks/exactness.py``; the result is kept in ``benchmarks/results/exactness.json``.
"""

from __future__ import annotations

import argparse
import logging
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from contenders import accelerate, fabric, hf_trainer, lightning_trainer, own
from contenders.tasks import (
    STEPS,
    TASKS,
    Classifier,
    Gradient,
    RefusedError,
    Task,
    classified,
    refused,
    two_whole,
    whole_batches,
)
from harness import keep, machine

Contender = Callable[[Task], list[Gradient]]

CONTENDERS: dict[str, Contender] = {
    "gradledger": own.with_gradledger,
    "hand-written /K": own.hand_written,
    "accelerate": accelerate.alone,
    "accelerate + adapter": accelerate.with_adapter,
    "fabric": fabric.alone,
    "fabric + adapter": fabric.with_adapter,
    "lightning": lightning_trainer.alone,
    "lightning + adapter": lightning_trainer.with_adapter,
    "hf trainer": hf_trainer.alone,
    "hf trainer + adapter": hf_trainer.with_adapter,
    "hf trainer, own loss": hf_trainer.own_loss,
    "hf trainer, own loss + adapter": hf_trainer.own_loss_with_adapter,
}

_NO_FLOAT16, _ONE_WINDOW, _ONE_ONLY = (
    "no float16 on a CPU",
    "accumulates for one optimizer only",
    "one optimizer only",
)
TWO_OPTIMIZERS = "two optimizers, float16, clipped"
TWO_CONTENDERS: dict[str, Contender] = {
    "gradledger": own.two_with_gradledger,
    "hand-written /K": own.two_hand_written,
    "accelerate": accelerate.two_alone,
    "accelerate + adapter": accelerate.two_with_adapter,
    "fabric": refused(_NO_FLOAT16),
    "fabric + adapter": refused(_NO_FLOAT16),
    "lightning": refused(_ONE_WINDOW),
    "lightning + adapter": refused(_ONE_WINDOW),
    **{name: refused(_ONE_ONLY) for name in CONTENDERS if name.startswith("hf trainer")},
}


def worst_error(steps: list[Gradient], expected: list[Gradient]) -> float:
    """The largest relative error over the windows; a window that makes no step is off by its whole gradient."""
    errors = [_relative(own, right) for own, right in zip(steps, expected, strict=False)]
    return max([*errors, *([1.0] * (len(expected) - len(steps)))])


def _relative(own: Gradient, right: Gradient) -> float:
    gap = math.hypot(*(float((own.get(name, 0.0) - value).norm()) for name, value in right.items()))
    return gap / math.hypot(*(float(value.norm()) for value in right.values()))


def measured(run: Contender, task: Task, expected: list[Gradient]) -> dict[str, Any]:
    try:
        steps = run(task)
    except RefusedError as refusal:
        return {"error": None, "why": str(refusal)}
    return {"error": worst_error(steps, expected), "num_steps": len(steps), "num_windows": len(expected)}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    table: dict[str, dict[str, Any]] = {}
    for name, task in TASKS.items():
        expected = whole_batches(task)
        rows = {"whole batch": {"error": worst_error(whole_batches(task, None), expected)}}
        table[name] = {**rows, **{who: measured(run, task, expected) for who, run in CONTENDERS.items()}}
    task = Task(Classifier, classified([4] * 16))
    expected = two_whole(task, torch.float64)
    rows = {"whole batch": {"error": worst_error(two_whole(task, None), expected)}}
    table[TWO_OPTIMIZERS] = {**rows, **{who: measured(run, task, expected) for who, run in TWO_CONTENDERS.items()}}
    for name, row in table.items():
        print(name)
        for who, cell in row.items():
            print(f"    {who:30} {cell['why'] if cell['error'] is None else format(cell['error'], '.1e')}")
    print(keep("exactness", {**machine("accelerate", "lightning", "transformers"), "steps": STEPS, "table": table}))


if __name__ == "__main__":
    main()
