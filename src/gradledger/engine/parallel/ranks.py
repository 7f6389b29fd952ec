"""The ranks that train together, and how they agree: small exchanges beside the gradients' own traffic."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from gradledger.errors import UserError

FINE, LEAVING, FAILED = 0.0, 1.0, 2.0

_control_groups: weakref.WeakKeyDictionary[dist.ProcessGroup, dist.ProcessGroup] = weakref.WeakKeyDictionary()
"""One group for exchanges beside each group of ranks, so that they are never mistaken for its gradients' traffic."""


class RankError(UserError):
    """Another rank gave up, so this one does too."""


class Ranks:
    """The processes of a group. What they exchange is a row of numbers each, over gloo, on the CPU.

    Args:
        group: The processes that train one model.
        num_numbers: The most numbers in a row.
    """

    def __init__(self, group: dist.ProcessGroup, num_numbers: int) -> None:
        self.size = dist.get_world_size(group)
        self.rank = dist.get_rank()
        self.index = dist.get_rank(group)
        self._members = dist.get_process_group_ranks(group)
        self._control = _control_group(group, self._members)
        self._num_numbers = num_numbers

    def agree(self, point: str, numbers: Sequence[float] = (), *, leaving: bool = False) -> list[list[float]] | None:
        """Meet the other ranks at a point, with a row of numbers from each.

        Args:
            point: Where in the window this is; all must be at the same.
            numbers: This rank's row.
            leaving: This rank gives its window up, without an error.

        Returns:
            The rows, one a rank, or None where a rank gives its window up.

        Raises:
            RankError: Another rank failed; the message has the reasons.
        """
        rows = self._exchange(LEAVING if leaving else FINE, numbers)
        if any(row[0] == FAILED for row in rows):
            reasons = [reason for reason in self.gather("") if reason]
            raise RankError(f"at the {point}, {'; '.join(reasons)}: the window is given up on every rank")
        if any(row[0] == LEAVING for row in rows):
            return None
        return [row[1:] for row in rows]

    def fail(self, error: BaseException) -> None:
        """Meet the other ranks with an error, so that they end as well, and know why."""
        self._exchange(FAILED, ())
        self.gather(f"rank {self.rank} failed with {type(error).__name__}: {error}")

    def gather(self, value: Any) -> list[Any]:
        """Any picklable value from each rank."""
        values = [None] * self.size
        dist.all_gather_object(values, value, group=self._control)
        return values

    def name(self, index: int) -> str:
        """How a member of the group is called in a message."""
        return f"rank {self._members[index]}"

    def _exchange(self, status: float, numbers: Sequence[float]) -> list[list[float]]:
        padding = [0.0] * (self._num_numbers - len(numbers))
        own = torch.tensor([status, *numbers, *padding], dtype=torch.float64)
        rows = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(rows, own, group=self._control)
        return [row.tolist() for row in rows]


def _control_group(group: dist.ProcessGroup, members: list[int]) -> dist.ProcessGroup:
    known = _control_groups.get(group)
    if known is None:
        known = dist.new_group(members, backend="gloo", use_local_synchronization=True)
        _control_groups[group] = known
    return known
