"""The ranks of a configured run: how the processes that torchrun started meet, share out data and decide together.

A run in one process is a run of one rank, so the rest of the run asks nobody how many there are. Nothing here imports
torch before there are several.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from gradledger.errors import UserError

if TYPE_CHECKING:
    from gradledger.engine.parallel.ranks import Ranks

Value = TypeVar("Value")

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RunRanks:
    """This process and those that it trains with.

    Args:
        others: How they meet; None: there are no others.

    Example:
        >>> alone = RunRanks()
        >>> alone.rank, alone.size, alone.gather(3, "end"), alone.total("end", 1.0, 2.0)
        (0, 1, [3], [1.0, 2.0])
    """

    def __init__(self, others: Ranks | None = None) -> None:
        self._others = others
        self.rank = 0 if others is None else others.rank
        self.size = 1 if others is None else others.size

    @property
    def is_first(self) -> bool:
        """Whether this rank is the one that prints and writes for all."""
        return self.rank == 0

    def together(self, action: Callable[[], Value], point: str) -> Value:
        """Do something that needs no other rank; where it fails on one rank, all end.

        Raises:
            RankError: It failed on another rank, and not on this one.
        """
        with self.telling():
            result = action()
            self.total(point)
        return result

    def attempt(self, action: Callable[[], Value], point: str) -> list[Value]:
        """Do something with files; where the disk refuses it on one rank, it has failed on all.

        Returns:
            Every rank's picklable result.

        Raises:
            OSError: On all ranks.
            RankError: Another rank failed with another error.
        """
        result: Value | None = None
        failure: OSError | None = None
        with self.telling():
            try:
                result = action()
            except OSError as error:
                failure = error
        described = None if failure is None else (failure.errno, failure.strerror or str(failure), failure.filename)
        outcomes = self.gather((result, described), point)
        if failure is not None:
            raise failure
        for rank, (_, of_another) in enumerate(outcomes):
            if of_another is not None:
                number, reason, path = of_another
                raise OSError(number, f"{reason} (rank {rank})", path)
        return [each for each, _ in outcomes]  # type: ignore[misc]  # none failed

    def total(self, point: str, *numbers: float) -> list[float]:
        """The sums of the ranks' numbers. All ranks come here in the same order.

        Raises:
            RankError: Another rank failed.
        """
        if self._others is None:
            return list(numbers)
        rows = self._others.agree(point, numbers)
        assert rows is not None
        return [sum(column) for column in zip(*rows, strict=True)][: len(numbers)]

    def gather(self, value: Value, point: str) -> list[Value]:
        """Every rank's picklable value, in the order of ranks.

        Raises:
            RankError: Another rank failed.
        """
        return [value] if self._others is None else self._others.gather(value, point)

    @contextmanager
    def telling(self, *, can_meet: bool = True) -> Iterator[None]:
        """Tells the others of an error inside, when they next meet this rank, unless they know of it.

        Args:
            can_meet: They can be told. Where they may be inside a forward that needs all ranks, they cannot: the error
                must end this process, which ends theirs.
        """
        try:
            yield
        except Exception as error:
            if self._others is not None:
                self._others.fail(error) if can_meet else self._others.keep_quiet(error)
            raise


@contextmanager
def joined() -> Iterator[RunRanks]:
    """Meets the other processes that torchrun started, for as long as the context lasts; alone without torchrun.

    Raises:
        UserError: There are said to be several ranks, but not where they meet.
    """
    if num_ranks_started() == 1:
        yield RunRanks()
        return
    missing = [name for name in _NEEDED if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE says that there are {os.environ['WORLD_SIZE']} ranks, but {', '.join(missing)} is not set: "
            "start the run with torchrun, or without WORLD_SIZE"
        )
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    from gradledger.engine.parallel.ranks import Ranks, leave_groups

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, rank, num_ranks = next(iter(rendezvous("env://")))
    # torchrun keeps one store over its restarts (seen with 2.13), and in it the addresses of processes that are gone.
    attempt = PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}-of-{num_ranks}", store)
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=num_ranks)
    try:
        assert dist.group.WORLD is not None
        yield RunRanks(Ranks(dist.group.WORLD))
    finally:
        leave_groups()


def num_ranks_started() -> int:
    """The number of processes that torchrun says it started; 1 without it."""
    given = os.environ.get("WORLD_SIZE", "")
    return int(given) if given.isdecimal() else 1


def check_joined(ranks: RunRanks) -> None:
    """A process that torchrun started must train with the others, or every one would train the same model alone.

    Raises:
        UserError: It does not.
    """
    if ranks.size == 1 and num_ranks_started() > 1:
        raise UserError(
            f"this process is one of {num_ranks_started()} ranks (WORLD_SIZE), but this runs in one process: start it "
            "without torchrun; `gradledger train` is what several ranks can do together"
        )
