"""Estimating: the peak bytes of a micro-batch that does not fit here, on tensors without data."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from gradledger.engine.batches.nesting import map_tensors
from gradledger.engine.memory.limits import Snapshot
from gradledger.engine.memory.measuring import Bench, MemoryTracker


def estimated_peak_bytes(
    model: nn.Module, parameters: Sequence[Tensor], bench: Bench, micro_batch: Any, *, num_runs: int = 1
) -> int | None:
    """The most bytes that a forward and backward would hold at once, beyond those before.

    Every operation is run on fake tensors, which have shapes and no data: it takes neither the memory nor the time.

    Args:
        model: A copy of it without data is used.
        parameters: Whose gradients are computed.
        bench: Runs it.
        micro_batch: A micro-batch.
        num_runs: As for :meth:`Bench.peak_bytes`.

    Returns:
        The bytes; None where the loss looks at values, which fake tensors do not have.
    """
    snapshot = Snapshot(model, bench.device)
    trained = {id(parameter) for parameter in parameters}
    places = {name for name, parameter in model.named_parameters() if id(parameter) in trained}
    try:
        with bench.saving():  # a copy that is made inside saves as well
            mode = FakeTensorMode()
            with FakeCopyMode(mode):
                shadow = copy.deepcopy(model)
            inputs = map_tensors(micro_batch, lambda leaf: mode.from_tensor(leaf))
            wanted = [parameter for name, parameter in shadow.named_parameters() if name in places]
            with bench.keeping(wanted), mode, MemoryTracker() as tracker:
                for _ in range(num_runs):
                    bench.run(shadow, wanted, inputs)
        return int(tracker.peak_bytes)
    except Exception:  # whatever the model does that fake tensors cannot
        return None
    finally:
        snapshot.restore()
