"""Sizing: how large micro-batches should be, from measured bytes and seconds, and what was learned about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gradledger.engine.batches.splitting import Samples
from gradledger.engine.memory.measuring import Bench, Cost
from gradledger.engine.memory.remembering import RememberedSize

USABLE = 0.9
"""The part of the available memory that is planned with; the rest is for fragmentation and what kernels need."""

_WORTH = 0.03
"""A larger micro-batch must be faster by more than this, or the smaller one is taken."""

_HOPEFUL = 0.6
"""A size with less than this part of the best throughput is not timed again."""

_FIRST_PATIENCE = 64
"""Updates at a lowered size before the larger one is tried again; doubles when that fails."""


class Cutting(Protocol):
    """How micro-batches are cut from samples, and what their size is measured in."""

    def cut(self, samples: Samples, size: int) -> list[Samples]:
        """Micro-batches of at most ``size``."""
        ...

    def size_of(self, samples: Samples) -> int:
        """The size that all these samples make in one micro-batch."""
        ...


class BySamples:
    """Micro-batches of so many samples, in the batch's order."""

    def cut(self, samples: Samples, size: int) -> list[Samples]:
        """Micro-batches of ``size`` samples, the last one shorter."""
        return samples.cut(size)

    def size_of(self, samples: Samples) -> int:
        """The number of samples."""
        return samples.num_samples


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """Peak bytes of a micro-batch as a line, ``fixed_bytes + bytes_per_size × size``, through measured sizes.

    A peak is the larger of several lines (gradients and little else for small sizes, activations for large ones), so
    the line goes through the two largest sizes that were measured.
    """

    fixed_bytes: float
    bytes_per_size: float

    @classmethod
    def of(cls, remembered: RememberedSize) -> MemoryModel:
        """The line that a remembered size came from."""
        return cls(remembered.fixed_bytes, remembered.bytes_per_size)

    @classmethod
    def fit(cls, costs: Sequence[Cost]) -> MemoryModel:
        """The line through the two largest of the measured sizes."""
        ordered = sorted(costs, key=lambda cost: cost.size)
        if len(ordered) == 1:
            return cls(0.0, ordered[0].peak_bytes / ordered[0].size)
        one, two = ordered[-2:]
        slope = max(0.0, (two.peak_bytes - one.peak_bytes) / (two.size - one.size))
        return cls(two.peak_bytes - slope * two.size, slope)

    def peak_bytes(self, size: int) -> float:
        """The predicted peak."""
        return self.fixed_bytes + self.bytes_per_size * size

    def largest_fitting(self, num_bytes: float) -> int:
        """The largest size whose predicted peak is at most ``num_bytes``; 0 where none is."""
        room = num_bytes - self.fixed_bytes
        if room < self.bytes_per_size:
            return 0
        return 2**62 if self.bytes_per_size == 0 else int(room / self.bytes_per_size)


@dataclass(frozen=True, slots=True)
class Curve:
    """Costs of growing micro-batch sizes.

    Args:
        costs: The measured ones, by size.
        limit_bytes: What a forward and backward may take.
        is_limited: Memory, and not the effective batch or the speed, ended the search.
    """

    costs: tuple[Cost, ...]
    limit_bytes: float
    is_limited: bool

    @property
    def model(self) -> MemoryModel:
        """The memory model through the costs."""
        return MemoryModel.fit(self.costs)

    @property
    def wants_more(self) -> bool:
        """Whether memory alone kept a larger size from being the best."""
        return self.is_limited and self.best() is self._fitting()[-1]

    def best(self) -> Cost:
        """The smallest size whose throughput is the best, or so close to it that more memory is not worth it."""
        fitting = self._fitting()
        fastest = max(cost.size_per_second for cost in fitting)
        return next(cost for cost in fitting if cost.size_per_second >= fastest * (1 - _WORTH))

    def _fitting(self) -> list[Cost]:
        return [cost for cost in self.costs if cost.peak_bytes <= self.limit_bytes] or [self.costs[0]]


def measure_curve(bench: Bench, samples: Samples, cutting: Cutting, *, limit: float, patience: int = 2) -> Curve | None:
    """Measure micro-batches of sizes 1, 2, 4, … up to the effective batch, what fits, or what is still worth it.

    Args:
        bench: Measures one micro-batch.
        samples: The effective batch.
        cutting: What is cut from it.
        limit: Bytes that a forward and backward may take on top of the present ones.
        patience: The search ends after so many doublings that brought no throughput.

    Returns:
        The curve, or None where not even the smallest size fits.
    """
    costs: list[Cost] = []
    is_limited = False
    total = cutting.size_of(samples)
    for size in _doubling(cutting.size_of(cutting.cut(samples, 1)[0]), total):
        if costs and not _may_fit(size, costs, limit):
            is_limited = True
            break
        try:
            cost = _measure(bench, cutting, samples, size)
        except Exception:
            if costs or size == total:
                raise
            continue  # a size too small to be run: BatchNorm wants two samples
        if cost is None:
            is_limited = True
            break
        costs.append(cost)
        if _is_exhausted(costs, patience):
            break
    if is_limited and costs:
        largest = min(total, MemoryModel.fit(costs).largest_fitting(limit))
        if largest > costs[-1].size and (cost := _measure(bench, cutting, samples, largest)) is not None:
            costs.append(cost)
    costs = timed_again(costs, lambda size: bench.seconds(cutting.cut(samples, size)[0].micro_batch()))
    return Curve(tuple(costs), limit, is_limited) if costs else None


def timed_again(costs: Sequence[Cost], seconds_of: Callable[[int], float | None]) -> list[Cost]:
    """The costs with the better of two times, where a first disturbed one may have hidden the best size."""
    best = max((cost.size_per_second for cost in costs), default=0.0)
    again = []
    for cost in costs:
        seconds = seconds_of(cost.size) if len(costs) > 1 and cost.size_per_second > best * _HOPEFUL else None
        again.append(cost if seconds is None else replace(cost, seconds=min(seconds, cost.seconds)))
    return again


def _doubling(first: int, total: int) -> Iterator[int]:
    size = first
    while size < total:
        yield size
        size *= 2
    yield total


def _may_fit(size: int, costs: Sequence[Cost], limit: float) -> bool:
    last = costs[-1]
    if len(costs) == 1:  # no slope yet
        return True
    return last.peak_bytes * size / last.size <= limit or MemoryModel.fit(costs).peak_bytes(size) <= limit


def _measure(bench: Bench, cutting: Cutting, samples: Samples, size: int) -> Cost | None:
    piece = cutting.cut(samples, size)[0]
    micro_batch = piece.micro_batch()
    num_bytes = bench.peak_bytes(micro_batch, num_runs=1 if size >= cutting.size_of(samples) else 2)
    seconds = None if num_bytes is None else bench.seconds(micro_batch)
    if num_bytes is None or seconds is None:
        return None
    return Cost(cutting.size_of(piece), num_bytes, seconds)


def _is_exhausted(costs: Sequence[Cost], patience: int) -> bool:
    """Whether the last doublings all stayed below the best of the earlier sizes."""
    if len(costs) <= patience:
        return False
    earlier = max(cost.size_per_second for cost in costs[:-patience])
    return all(cost.size_per_second < earlier * (1 + _WORTH) for cost in costs[-patience:])


class LearnedSize:
    """The size that is used for one kind of batch: lowered when memory runs out, tried larger again later.

    Args:
        wished: The size without trouble.
        on_lowered: Called with a size that was lowered to.
        limit_bytes: The room that the wished size was chosen for, where a larger one would be tried with more.
    """

    def __init__(
        self,
        wished: int,
        on_lowered: Callable[[int], None] = lambda _: None,
        *,
        limit_bytes: float | None = None,
    ) -> None:
        self.wished = wished
        self.size = wished
        self.limit_bytes = limit_bytes
        self.measured_total = 0
        self._on_lowered = on_lowered
        self._patience = _FIRST_PATIENCE
        self._num_updates = 0
        self._is_trying = False

    def raise_wish(self, size: int) -> None:
        """A larger size than was known of is wished for."""
        if self.size == self.wished:
            self.size = max(self.size, size)
        self.wished = max(self.wished, size)

    @property
    def is_lowered(self) -> bool:
        """Whether memory ran out with the wished size."""
        return self.size < self.wished

    @property
    def is_due(self) -> bool:
        """Whether it is time to see if there is more room now than the size was chosen for."""
        has_waited = self._num_updates > 0 and self._num_updates % self._patience == 0
        return self.limit_bytes is not None and not self.is_lowered and has_waited

    def begin(self) -> int:
        """The size for the next update."""
        if self.is_lowered and self._num_updates >= self._patience:
            self.size = min(self.wished, self.size * 2)
            self._num_updates, self._is_trying = 0, True
        return self.size

    def lower(self, size: int) -> None:
        """Memory ran out with a larger one."""
        if self._is_trying:
            self._patience *= 2
            self._is_trying = False
        self._num_updates = 0
        if size < self.size:
            self.size = size
            self._on_lowered(size)

    def succeed(self) -> None:
        """An update was made with the size."""
        self._num_updates += 1
        self._is_trying = False
