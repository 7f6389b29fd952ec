"""Making a plan: measure micro-batches of growing size, predict what was not measured."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradledger.engine.batches.nesting import tensor_leaves, to_device
from gradledger.engine.batches.splitting import BatchSamples, read_samples
from gradledger.engine.fused import as_accumulated
from gradledger.engine.memory.accounting import gradient_bytes
from gradledger.engine.memory.checkpointing import Checkpointing, CheckpointingChoice
from gradledger.engine.memory.estimating import estimated_peak_bytes
from gradledger.engine.memory.limits import available_bytes
from gradledger.engine.memory.measuring import Bench, Cost, optimizer_bytes, optimizer_step_seconds
from gradledger.engine.memory.offloading import Offload, host_gradients
from gradledger.engine.memory.sizing import MemoryModel, timed_again
from gradledger.engine.precision import Precision
from gradledger.engine.replaying import LossFunction
from gradledger.errors import UserError
from gradledger.planner.communication import Link
from gradledger.planner.result import Plan, PlanRow, RankRow, recommended_row

_NUM_MORE_PASSES = 6  # over all sizes, so that a disturbance meets each of them
_DECIMAL = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def plan(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    effective_batch_size: int | None = None,
    optimizer: Optimizer | None = None,
    memory: int | str | None = None,
    num_ranks: int = 1,
    link: Link | None = None,
    precision: str = "32-true",
    accumulate_dtype: torch.dtype | None = None,
    checkpointing: CheckpointingChoice = False,
    offload: Offload | None = None,
    max_seconds: float = 30.0,
) -> Plan:
    """Measure memory and time by micro-batch size, and choose.

    Nothing is trained: gradients, buffers and random generators are as before.

    Args:
        model: On the device to plan for.
        loss_fn: ``loss_fn(model, micro_batch)`` gives the mean loss of a micro-batch.
        batch: Samples as long as they get, on any device; they are repeated where the effective batch has more.
        effective_batch_size: Samples of one update over all ranks; None is the batch's.
        optimizer: Its state and its step are counted; None counts neither.
        memory: Bytes that there are, as a number or as ``"24GB"``; None is what is available here.
        num_ranks: Predict up to so many ranks.
        link: The communication model for ranks.
        precision: As for the :class:`gradledger.Accumulator`, and so the next three.
        accumulate_dtype: The type that gradients accumulate in.
        checkpointing: Blocks of the model are run again in the backward.
        offload: Accumulated gradients wait in host memory.
        max_seconds: When measuring has taken so long, larger sizes are predicted.

    Raises:
        UserError: An argument is out of range, or the batch cannot be split.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 1)
        >>> result = plan(model, lambda m, x: m(x).square().mean(), torch.randn(8, 4), effective_batch_size=16)
        >>> [row.micro_batch_size for row in result.rows]
        [1, 2, 4, 8, 16]
    """
    samples = read_samples(batch)
    assert isinstance(samples, BatchSamples)
    size = samples.num_samples
    if effective_batch_size is not None:
        size = _check_count("effective_batch_size", effective_batch_size)
    parameters = _trained(model, optimizer)
    chosen = Precision(precision, parameters, accumulate_dtype=accumulate_dtype)
    saving = nullcontext if checkpointing is False else Checkpointing(model, checkpointing).active
    kept = host_gradients(offload)
    bench = Bench(model, parameters, loss_fn, chosen.autocast, saving, nullcontext if kept is None else kept.active)
    ranks = _check_count("num_ranks", num_ranks)
    resident = _num_bytes([*model.parameters(), *model.buffers()])
    held = 0 if optimizer is None else _state_held(optimizer)
    stepping = None if optimizer is None else as_accumulated(optimizer, model)
    coming, in_step = (0, 0) if stepping is None else optimizer_bytes(stepping)
    limit = available_bytes(bench.device) + resident + held if memory is None else parse_bytes(memory)
    fixed = resident + held + coming
    repeated = samples.pick([at % samples.num_samples for at in range(size)])
    measure = _Measurer(bench, model, parameters, repeated, limit - fixed, max_seconds)
    chosen.prepare(parameters)
    try:
        costs = [measure(each) for each in _doubling(size)]
        for _ in range(_NUM_MORE_PASSES):
            costs = measure.again(costs)
    finally:
        chosen.release(parameters)
    fixed += bench.lasting_bytes or 0
    gradients = _num_bytes(parameters)
    costs = [(replace(c, peak_bytes=max(c.peak_bytes, gradients + in_step)), is_measured) for c, is_measured in costs]
    step_seconds = 0.0 if stepping is None else optimizer_step_seconds(stepping)
    rows = tuple(_row(cost, is_measured, size, fixed, limit, step_seconds) for cost, is_measured in costs)
    link = link or Link()
    return Plan(
        effective_batch_size=size,
        rows=rows,
        limit_bytes=limit,
        fixed_bytes=fixed + gradients,
        gradient_bytes=gradients,
        gradients=gradient_bytes(parameters, accumulate_dtype=accumulate_dtype, is_offloaded=kept is not None),
        device=str(bench.device),
        ranks=tuple(_ranks(costs, rows, ranks, size, gradients, link, step_seconds)),
        link=link,
    )


class _Measurer:
    """The cost of a size: measured while it fits and there is time, else predicted."""

    def __init__(
        self,
        bench: Bench,
        model: nn.Module,
        parameters: Sequence[Tensor],
        samples: BatchSamples,
        limit: float,
        max_seconds: float,
    ) -> None:
        self._bench = bench
        self._model = model
        self._parameters = parameters
        self._samples = samples
        self._room = min(limit, available_bytes(bench.device))
        self._deadline = time.perf_counter() + max_seconds
        self._costs: list[Cost] = []
        self._is_over = False

    def __call__(self, size: int) -> tuple[Cost, bool]:
        micro_batch = self._micro_batch(size)
        inputs = _num_bytes([leaf for _, leaf in tensor_leaves(micro_batch)])
        self._is_over = self._is_over or self._will_not_do(size)
        num_bytes = seconds = None
        if not self._is_over:
            try:
                num_bytes = self._bench.peak_bytes(micro_batch, num_runs=self._num_runs(size))
                seconds = None if num_bytes is None else self._bench.seconds(micro_batch)
            except Exception:
                if size == self._samples.num_samples:
                    raise
                return Cost(size, self._predicted_bytes(micro_batch, size) + inputs, float("inf")), False
        if num_bytes is None or seconds is None:
            self._is_over = True
            return Cost(size, self._predicted_bytes(micro_batch, size) + inputs, self._predicted_seconds(size)), False
        self._costs.append(Cost(size, num_bytes, seconds))
        return Cost(size, num_bytes + inputs, seconds), True

    def again(self, costs: Sequence[tuple[Cost, bool]]) -> list[tuple[Cost, bool]]:
        """The measured costs timed once more, while there is time; the better time counts."""
        measured = [cost for cost, is_measured in costs if is_measured]
        better = {cost.size: cost for cost in timed_again(measured, self._seconds_if_there_is_time)}
        return [(better.get(cost.size, cost), is_measured) for cost, is_measured in costs]

    def _seconds_if_there_is_time(self, size: int) -> float | None:
        if time.perf_counter() > self._deadline:
            return None
        return self._bench.seconds(self._micro_batch(size))

    def _micro_batch(self, size: int) -> Any:
        """On the model's device, as an accumulator brings it there."""
        return to_device(self._samples.pick(self._samples.indices[:size]).micro_batch(), self._bench.device)

    def _will_not_do(self, size: int) -> bool:
        if not self._costs:
            return False
        is_late = time.perf_counter() + 2 * self._predicted_seconds(size) > self._deadline
        has_slope = len(self._costs) > 1
        return is_late or (has_slope and MemoryModel.fit(self._costs).peak_bytes(size) > self._room)

    def _predicted_bytes(self, micro_batch: Any, size: int) -> int:
        num_runs = self._num_runs(size)
        estimated = estimated_peak_bytes(self._model, self._parameters, self._bench, micro_batch, num_runs=num_runs)
        if estimated is not None:
            return estimated
        return round(MemoryModel.fit(self._costs).peak_bytes(size)) if self._costs else 0

    def _num_runs(self, size: int) -> int:
        return 1 if size == self._samples.num_samples else 2

    def _predicted_seconds(self, size: int) -> float:
        return size / self._costs[-1].size_per_second if self._costs else float("inf")


def parse_bytes(text: int | str) -> int:
    """``"24GB"``, ``"512MiB"`` or a number, in bytes.

    Raises:
        UserError: It is nothing of the kind.

    Example:
        >>> parse_bytes("1.5GB"), parse_bytes("1KiB")
        (1500000000, 1024)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?\s*", str(text))
    if match is None or float(match[1]) == 0:
        raise UserError(f"{text!r} is no amount of memory: write it as 24GB, 512MiB or a number of bytes")
    return round(float(match[1]) * {**_DECIMAL, **_BINARY}[match[2] or ""])


def _doubling(size: int) -> Iterator[int]:
    each = 1
    while each < size:
        yield each
        each *= 2
    yield size


def _row(cost: Cost, is_measured: bool, size: int, fixed: int, limit: int, step_seconds: float) -> PlanRow:
    return PlanRow(
        micro_batch_size=cost.size,
        num_micro_batches=-(-size // cost.size),
        peak_bytes=cost.peak_bytes + fixed,
        seconds=_update_seconds(cost, size, step_seconds),
        fits=cost.peak_bytes + fixed <= limit,
        is_measured=is_measured,
    )


def _update_seconds(cost: Cost, num_samples: int, step_seconds: float) -> float | None:
    """Full micro-batches, and the last shorter one by its part; None where the size cannot be run."""
    return None if cost.seconds == float("inf") else num_samples / cost.size * cost.seconds + step_seconds


def _ranks(
    costs: Sequence[tuple[Cost, bool]],
    rows: tuple[PlanRow, ...],
    num_ranks: int,
    size: int,
    gradient_bytes: int,
    link: Link,
    step_seconds: float,
) -> Iterator[RankRow]:
    if num_ranks == 1:
        return
    for ranks in _doubling(num_ranks):
        local = -(-size // ranks)
        known = [
            (cost, row) for (cost, _), row in zip(costs, rows, strict=True) if row.fits and row.seconds is not None
        ]
        usable = [(cost, row) for cost, row in known if cost.size <= local] or known[:1]
        if not usable:
            return
        choice = recommended_row(tuple(row for _, row in usable))
        cost = next(cost for cost, row in usable if row is choice)
        seconds = local / cost.size * cost.seconds + step_seconds
        reduce_seconds = link.all_reduce_seconds(gradient_bytes, ranks)
        count = -(-local // cost.size)
        yield RankRow(ranks, cost.size, count, seconds + reduce_seconds, seconds + count * reduce_seconds)


def _trained(model: nn.Module, optimizer: Optimizer | None) -> list[Tensor]:
    owned = model.parameters() if optimizer is None else (p for g in optimizer.param_groups for p in g["params"])
    trained = [parameter for parameter in owned if parameter.requires_grad]
    if not trained:
        raise UserError("the model has no parameter with requires_grad=True: there is nothing to plan for")
    return trained


def _state_held(optimizer: Optimizer) -> int:
    return _num_bytes([v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)])


def _num_bytes(tensors: Sequence[Tensor]) -> int:
    return sum(int(tensor.numel() * tensor.element_size()) for tensor in tensors)


def _check_count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name}={value!r} must be a whole number, at least 1")
    return value
