"""The ranks that train together, and how they agree: small exchanges beside the gradients' own traffic."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from gradledger.errors import UserError

FINE, LEAVING, FAILED = 0.0, 1.0, 2.0

MOST_NUMBERS = 32
"""Every exchange has as many numbers, so that one rank's failure meets whatever the others exchange next."""

_PATIENCE = timedelta(seconds=60)
"""How long an error waits for the other ranks' next meeting; their forwards may be long, or they may be done."""

_TOLD = "_is_told_to_ranks"

_control_groups: weakref.WeakKeyDictionary[dist.ProcessGroup, dist.ProcessGroup] = weakref.WeakKeyDictionary()
"""One group for exchanges beside each group of ranks, so that they are never mistaken for its gradients' traffic."""

Shared = TypeVar("Shared")


class RankError(UserError):
    """Another rank gave up, so this one does too."""


class Ranks:
    """The processes of a group. What they exchange is a row of numbers each, over gloo, on the CPU.

    Args:
        group: The processes that train one model.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.size = dist.get_world_size(group)
        self.rank = dist.get_rank()
        self.index = dist.get_rank(group)
        self._members = dist.get_process_group_ranks(group)
        self._control = _control_group(group, self._members)

    def agree(self, point: str, numbers: Sequence[float] = (), *, leaving: bool = False) -> list[list[float]] | None:
        """Meet the other ranks at a point, with a row of numbers from each.

        Args:
            point: Where in the run this is; all must be at the same.
            numbers: This rank's row, of at most ``MOST_NUMBERS``.
            leaving: This rank gives its window up, without an error.

        Returns:
            The rows, one a rank, or None where a rank gives its window up.

        Raises:
            RankError: Another rank failed, and the message has the reasons; or its process has ended.
        """
        rows = self._exchange(LEAVING if leaving else FINE, numbers, point)
        if any(row[0] == FAILED for row in rows):
            reasons = [reason for reason in self._all_gather("", point) if reason]
            raise RankError(f"at the {point}, {'; '.join(reasons)}; all ranks end here")
        if any(row[0] == LEAVING for row in rows):
            return None
        return [row[1:] for row in rows]

    def gather(self, value: Shared, point: str) -> list[Shared]:
        """Meet the other ranks at a point, with a picklable value from each.

        Raises:
            RankError: As for :meth:`agree`.
        """
        self.agree(point)
        return self._all_gather(value, point)

    def fail(self, error: BaseException) -> None:
        """Meet the other ranks with an error, so that they end as well, and know why.

        Once for each error, and not for one that came from the others. Where they do not come to a meeting soon, the
        error goes its way untold.
        """
        if isinstance(error, RankError) or getattr(error, _TOLD, False):
            return
        self.keep_quiet(error)
        try:
            self._exchange(FAILED, (), "end", _PATIENCE)
            described = ": ".join(filter(None, [type(error).__name__, str(error)]))
            self._all_gather(f"rank {self.rank} failed with {described}", "end")
        except RankError as unreachable:
            error.add_note(str(unreachable))

    def keep_quiet(self, error: BaseException) -> None:
        """Let nobody tell the other ranks of an error: they know, or are where they cannot hear it."""
        setattr(error, _TOLD, True)  # travels with the error to whoever catches it

    def name(self, index: int) -> str:
        """How a member of the group is called in a message."""
        return f"rank {self._members[index]}"

    def _exchange(
        self, status: float, numbers: Sequence[float], point: str, patience: timedelta | None = None
    ) -> list[list[float]]:
        padding = [0.0] * (MOST_NUMBERS - len(numbers))
        own = torch.tensor([status, *numbers, *padding], dtype=torch.float64)
        rows = [torch.empty_like(own) for _ in range(self.size)]
        try:
            work = dist.all_gather(rows, own, group=self._control, async_op=True)
            work.wait() if patience is None else work.wait(patience)
        except RuntimeError as error:
            raise unreachable(point, error) from None
        return [row.tolist() for row in rows]

    def _all_gather(self, value: Any, point: str) -> list[Any]:
        values: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(values, value, group=self._control)
        except RuntimeError as error:
            raise unreachable(point, error) from None
        return values


def left_by_another() -> RankError:
    """The error where a rank gave its window up and this one is already past its last micro-batch, or not yet in it."""
    return RankError("another rank left its window before its end: the window is given up on every rank")


def leave_groups() -> None:
    """Take all process groups out of use, and let the objects live on for the life of the process.

    gloo's threads let go of a finished reduction a moment later, and need the interpreter lock for it; a group whose
    last reference goes meanwhile waits for them while holding that lock, for ever (seen with torch 2.13).
    """
    for each in [*distributed_c10d._world.pg_map, *_control_groups.values()]:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))
    dist.destroy_process_group()


_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")
"""What gloo says in a collective that another rank has left; errors of other backends have a type of their own."""


def is_lost(error: BaseException | None) -> bool:
    """Whether a collective failed because another rank is gone."""
    if not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or any(text in str(error) for text in _LOST)


def unreachable(point: str, error: BaseException) -> RankError:
    """The error of a meeting, or a reduction, that another rank has left."""
    return RankError(
        f"at the {point}, another rank could not be reached ({' '.join(str(error).split())}): its process has ended, "
        "and what it wrote says why"
    )


def _control_group(group: dist.ProcessGroup, members: list[int]) -> dist.ProcessGroup:
    known = _control_groups.get(group)
    if known is None:
        known = dist.new_group(members, backend="gloo", use_local_synchronization=True)
        _control_groups[group] = known
    return known
