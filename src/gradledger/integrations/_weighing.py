"""What the adapters share: what each micro-batch of a window counts, over all ranks, and how its loss takes that in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch.distributed as dist
from torch import Tensor

from gradledger.engine.gradients import graph_leaves, silenced
from gradledger.engine.parallel.ranks import Ranks
from gradledger.engine.weights import Weight, WeightTable
from gradledger.errors import UserError


@dataclass(frozen=True, slots=True)
class WeighedWindow:
    """The micro-batches of one update on this rank.

    Args:
        micro_batches: The micro-batches; repeated ones at the end fill up a window that must be longer.
        weights: The units of each, 0 for a repeated one.
        shares: What the mean loss of each is to be multiplied by: its weight over that of all ranks' micro-batches,
            times the number of ranks, because trainers average gradients over ranks.
    """

    micro_batches: list[Any]
    weights: list[float]
    shares: list[float]


class Weigher:
    """Counts micro-batches, and adds up with the other ranks.

    Args:
        weight: What a loss is a mean over, as for :class:`gradledger.Accumulator`: None counts samples, a number or a
            callable on the micro-batch counts anything else.

    Raises:
        UserError: ``weight`` is a mapping, or anything that :class:`gradledger.Accumulator` refuses.
    """

    def __init__(self, weight: Weight | None) -> None:
        if isinstance(weight, Mapping):
            raise UserError(
                f"weight={weight!r} names several units, but a trainer has one loss a micro-batch: give one weight, or "
                "use gradledger.Accumulator"
            )
        self._table = WeightTable(weight)
        self._latest: list[Any] = []

    def weigh(self, micro_batches: Sequence[Any]) -> list[float]:
        """The units of each micro-batch.

        Raises:
            UserError: One cannot be counted.
        """
        return list(self._table.weigh(micro_batches, self._table.primary_unit).weights)

    def read(self, source: Iterator[Any], num_steps: int, *, filled: bool = False) -> WeighedWindow:
        """The next window, agreed upon by all ranks; an empty one where no rank has data.

        A rank that has fewer micro-batches than another repeats its last one with weight 0, so that all run as many.

        Args:
            source: This rank's micro-batches.
            num_steps: How many make a window.
            filled: Repeat the last one also where all ranks have fewer than ``num_steps``.

        Raises:
            UserError: A micro-batch cannot be counted, or a rank has never had one while others have.
        """
        ranks = find_ranks()
        try:
            micro_batches = list(islice(source, num_steps))
            weights = self.weigh(micro_batches)
        except Exception as error:
            if ranks is not None:
                ranks.fail(error)
            raise
        self._latest = micro_batches[-1:] or self._latest
        rows = exchange(ranks, len(micro_batches), bool(self._latest), math.fsum(weights))
        longest = int(max(row[0] for row in rows))
        if longest and not all(row[1] for row in rows):
            raise UserError("a rank has never had a micro-batch, so it cannot take part: give every rank at least one")
        missing = (num_steps if filled and longest else longest) - len(micro_batches)
        total = math.fsum(row[2] for row in rows)
        weights += [0.0] * missing
        shares = [len(rows) * weight / total if weight else 0.0 for weight in weights]
        return WeighedWindow(micro_batches + self._latest * missing, weights, shares)


def find_ranks() -> Ranks | None:
    """The ranks that train together, None for one process."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    assert dist.group.WORLD is not None
    return Ranks(dist.group.WORLD)


def exchange(ranks: Ranks | None, *numbers: float) -> list[list[float]]:
    """A row of numbers from every rank, this one's alone in one process."""
    if ranks is None:
        return [list(numbers)]
    rows = ranks.agree("start of a window", [float(number) for number in numbers])
    assert rows is not None  # no rank leaves without an error
    return rows


@contextmanager
def sharing(loss: Tensor, share: float) -> Iterator[Tensor]:
    """Around a backward: the loss to start it from, which is the mean loss times its share.

    A share of 0 adds exactly 0 to every gradient, also where the loss is not finite (a mean over no token).
    """
    if share != 0.0:
        yield loss * share
        return
    with silenced(graph_leaves(loss)):
        yield loss.clone().zero_()
