"""Where this process stands among those that train together."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from torch import distributed as dist


@dataclass(frozen=True, slots=True)
class Place:
    """A process among those that train together.

    Args:
        rank: Its number.
        num_ranks: How many there are.
        since: When it was first seen to be one of several, in seconds of a clock that a machine's processes share.
    """

    rank: int = 0
    num_ranks: int = 1
    since: float = 0.0


def place_in(group: Any) -> Place:
    """The place in a group that gradients are averaged over; that of a single process where it is not all there are.

    Ranks that share a model, or a batch, cannot be compared by what each of them saw.
    """
    num_ranks = dist.get_world_size()
    if num_ranks == 1 or dist.get_world_size(group) != num_ranks:
        return Place()
    return Place(dist.get_rank(), num_ranks, time.monotonic())
