"""Memory that runs out, at every forward and every backward: an update goes on by itself, a run from its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.injected_faults import Fault, assert_same
from engine.test_engine_recovery import EVERYWHERE
from engine.test_engine_recovery import train as update
from faults.runs import Case, judge, train, whole
from gradledger.train import Run

NUM_FORWARDS = 36


def in_updates(_folder: Path, part: float) -> Iterator[Case]:
    """``Accumulator.update`` goes on with smaller micro-batches; bitwise as if it had begun with them."""
    expected, later = update(Fault(), 4)[0], update(Fault(), 4, first_size=8)[0]
    for direction, position in EVERYWHERE:
        for first, reference in ((0, expected), (4, later)):
            try:
                assert_same(update(Fault(direction, first + position), 8)[0], reference)
            except AssertionError:
                yield Case("wrong", note=f"{direction} {first + position}")
            else:
                yield Case("right")


def in_runs(folder: Path, part: float) -> Iterator[Case]:
    """A run ends with one line, and goes on from its last checkpoint."""
    expected = whole(folder)
    positions = range(0, NUM_FORWARDS, max(1, round(1 / part)))
    for where in ("forward", "backward", "half a backward"):
        for at in positions:
            output = folder / f"{where}-{at}"
            first = train(output, "checkpoint_every=2", around=_out_of_memory(where, at))
            if first.how != "done" or first.value.exit != "refused" or "out of memory" not in first.value.error:
                yield Case("wrong", note=str(first)[:2000])
                continue
            last = train(output, "checkpoint_every=2")
            yield judge(last, expected, [*first.told, *last.told], refused=True)


def _out_of_memory(where: str, at: int) -> Callable[[Run], AbstractContextManager[None]]:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")

    @contextmanager
    def around(run: Run) -> Iterator[None]:
        model: Any = run.setup.model
        numbers = iter(range(10**9))

        def in_forward(_module: Any, _inputs: Any, output: Tensor) -> None:
            if not model.training or next(numbers) != at:
                return
            if where == "forward":
                fail()
            output.register_hook(fail)

        # After the outer layer's backward, its gradients have been added already.
        (model.norm if where == "half a backward" else model).register_forward_hook(in_forward)
        yield

    return around
