"""Estimating: the peak bytes of a micro-batch that does not fit here, on tensors without data."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
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
    originals = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in trained}
    try:
        with bench.saving():  # a copy that is made inside saves as well
            mode = FakeTensorMode()
            with FakeCopyMode(mode):
                shadow = copy.deepcopy(model)
            inputs = map_tensors(micro_batch, lambda leaf: mode.from_tensor(leaf))
            shadows = {name: parameter for name, parameter in shadow.named_parameters() if name in originals}
            _accumulate_alike(originals, shadows)
            wanted = list(shadows.values())
            with bench.keeping(wanted), mode, MemoryTracker() as tracker:
                for _ in range(num_runs):
                    bench.run(shadow, wanted, inputs)
        return int(tracker.peak_bytes)
    except Exception:  # whatever the model does that fake tensors cannot
        return None
    finally:
        snapshot.restore()


def _accumulate_alike(originals: Mapping[str, Tensor], shadows: Mapping[str, Tensor]) -> None:
    """Let gradients of the copies accumulate in the type that those of the parameters do."""
    for name, original in originals.items():
        if hasattr(Tensor, "grad_dtype") and original.grad_dtype != original.dtype:
            shadows[name].grad_dtype = original.grad_dtype
