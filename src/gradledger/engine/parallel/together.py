"""Training together: whether several ranks are in play, and what each contributes to the next window."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gradledger.engine.account import Account
from gradledger.engine.memory.limits import available_bytes
from gradledger.engine.parallel.cost import SyncCost
from gradledger.engine.parallel.divergence import NUM_MARKS, RankComparison
from gradledger.engine.parallel.ranks import MOST_NUMBERS, Ranks, left_by_another
from gradledger.engine.parallel.shares import RankShares, weigh_own
from gradledger.engine.parallel.window import RankWindow
from gradledger.engine.parallel.wrappers import Replicas, Wrapper
from gradledger.engine.weights import UnitWeights, WeightTable
from gradledger.errors import UserError

if TYPE_CHECKING:
    from gradledger.engine.accumulator import Accumulator
    from gradledger.engine.window import Window

Sync = Literal["auto", "last", "every", "none"]
"""When gradients are reduced over ranks: with a window's last micro-batch, or with every one."""


_HELD_PART = 0.5
"""Of the memory there is before training, which activations and the optimizer's state need as well."""


def find_ranks(
    model: nn.Module, account: Account, table: WeightTable, sync: Sync, compare_ranks_every: int
) -> Together | None:
    """What several ranks need, or None for one process.

    Args:
        model: Looked through for modules that reduce gradients.
        account: Its parameters must be those that are reduced.
        table: The units of weights.
        sync: When to reduce.
        compare_ranks_every: Updates between comparisons of the ranks' gradients.

    Raises:
        UserError: There are several ranks and nothing, or something unknown, reduces the gradients.
    """
    if sync not in get_args(Sync):
        raise UserError(f"sync={sync!r}: choose one of {', '.join(map(repr, get_args(Sync)))}")
    is_count = isinstance(compare_ranks_every, int) and not isinstance(compare_ranks_every, bool)
    if not is_count or compare_ranks_every < 0:
        raise UserError(f"{compare_ranks_every=} must be a whole number of updates, or 0 for no comparison")
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    wrapper = _find_wrapper(model, account)
    if wrapper is None:
        if sync == "none":
            return None
        raise UserError(
            f"there are {dist.get_world_size()} ranks, but nothing in the model reduces gradients over them: before "
            "the accumulator is made, wrap the model in DistributedDataParallel or shard it with fully_shard, or give "
            "sync='none' if each rank trains a model of its own"
        )
    if sync == "none":
        raise UserError("sync='none' is for models that each rank trains alone, but this one is wrapped to reduce")
    return None if dist.get_world_size(wrapper.group) == 1 else Together(wrapper, table, sync, compare_ranks_every)


def _find_wrapper(model: nn.Module, account: Account) -> Wrapper | None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    from gradledger.engine.parallel.sharding import Shards, outermost_shards

    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise UserError("FullyShardedDataParallel (FSDP1) is not supported: shard the model with fully_shard (FSDP2)")
    replicas = [module for module in model.modules() if isinstance(module, DistributedDataParallel)]
    shards = outermost_shards(model)
    if not replicas and not shards:
        return None
    if replicas and shards:
        raise UserError("the model is both in DistributedDataParallel and sharded with fully_shard: use one of them")
    wrapper = Replicas(replicas) if replicas else Shards(shards)
    _check_reduced(model, account, {id(parameter) for parameter in wrapper.reduced()})
    return wrapper


def _check_reduced(model: nn.Module, account: Account, reduced: set[int]) -> None:
    owned = {id(parameter) for parameter in account.parameters if parameter.requires_grad}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    apart = [names.get(key, "one that is not the model's") for key in owned - reduced]
    if apart:
        raise UserError(
            f"the optimizer owns {len(apart)} parameters that are not reduced over ranks "
            f"({', '.join(sorted(apart)[:3])}): wrap the whole model"
        )
    others = [names[key] for key in reduced - owned if key in names]
    if others:
        raise UserError(
            f"{len(others)} parameters ({', '.join(sorted(others)[:3])}) are reduced over ranks, but the optimizer "
            "does not own them: give it all of a wrapped model's parameters, or call requires_grad_(False) before "
            "wrapping"
        )


class Together:
    """What one rank knows of training with others.

    Args:
        wrapper: What reduces the gradients.
        table: The units of weights.
        sync: When to reduce.
        compare_ranks_every: Updates between comparisons of the ranks' gradients; 0: none.
    """

    def __init__(self, wrapper: Wrapper, table: WeightTable, sync: Sync, compare_ranks_every: int) -> None:
        self._units = table.units[:-1]
        self.ranks = Ranks(wrapper.group)
        self._wrapper = wrapper
        self._table = table
        self._comparison = RankComparison(wrapper.copies, compare_ranks_every)
        self.cost = self._chosen(sync)
        self._latest: Any = None
        self._has_latest = False

    def _chosen(self, sync: Sync) -> SyncCost:
        """When to reduce, and what it takes; ``"auto"`` is ``"last"`` where whole gradients have room on every rank."""
        cost = SyncCost(
            "every" if sync == "every" else "last",
            self.ranks.size,
            self._wrapper.num_shards,
            self._wrapper.gradient_bytes(),
        )
        if sync != "auto" or not cost.held_bytes:
            return cost
        room = available_bytes(self._wrapper.reduced()[0].device)
        rows = self.ranks.agree("choice of sync", [float(room)])
        assert rows is not None  # nobody has a window to leave
        has_room = cost.held_bytes <= _HELD_PART * min(row[0] for row in rows)
        return cost if has_room else replace(cost, sync="every")

    def check_supported(self, accumulator: Accumulator, *, needs_closure: bool) -> None:
        """Refuse what is not exact over several ranks.

        Raises:
            UserError: The accumulator asks for such a thing.
        """
        refused = {
            f"weight= with {len(self._units)} units": len(self._table.units) > MOST_NUMBERS - 2 - NUM_MARKS,
            "non_finite='drop-micro-batch'": accumulator._policy.non_finite == "drop-micro-batch",
            "batch_norm='pooled'": accumulator._statistics is not None,
            "offload='cpu' (a sharded model has torch's CPUOffloadPolicy)": accumulator._account.host_gradients
            is not None,
            "accumulate_dtype=": accumulator._precision.accumulate_dtype is not None,
            f"{type(accumulator.optimizer).__name__}, which evaluates the loss again,": needs_closure,
        }
        for what, is_asked in refused.items():
            if is_asked:
                raise UserError(f"{what} is not supported over {self.ranks.size} ranks")

    def measurable(self, model: nn.Module) -> nn.Module:
        """What may run forwards and backwards on one rank alone, to measure them.

        Raises:
            UserError: Nothing may.
        """
        alone = self._wrapper.measurable(model)
        if alone is None:
            raise UserError(
                "over several ranks micro-batches can be measured only where the model itself is in "
                "DistributedDataParallel: give micro_batch_size=, or token_budget= with lengths="
            )
        return alone

    def smallest(self, size: int) -> int:
        """The smallest of the ranks' sizes."""
        rows = self.ranks.agree("choice of a size", [float(size)])
        assert rows is not None  # nobody has a window to leave
        return int(min(row[0] for row in rows))

    def share_of(self, effective_batch_size: int) -> int:
        """A rank's samples of an effective batch.

        Raises:
            UserError: They cannot be shared out evenly.
        """
        share, rest = divmod(effective_batch_size, self.ranks.size)
        if rest:
            raise UserError(f"{effective_batch_size=} cannot be shared out evenly over {self.ranks.size} ranks")
        return share

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tells the others of an error between windows, when they come to the next one."""
        try:
            yield
        except BaseException as error:
            self.ranks.fail(error)
            raise

    def windows(self, groups: Iterator[list[Any]], make: Callable[[list[Any]], Window | None]) -> Iterator[Window]:
        """Windows until every rank's data has ended; a rank that has none left takes part with weight 0."""
        while True:
            with self.telling():
                group = next(groups, [])
            window = make(group)
            if window is None:
                return
            yield window

    def window(
        self, accumulator: Accumulator, micro_batches: list[Any], num_samples: Sequence[int] | None = None
    ) -> RankWindow | None:
        """The next window, agreed upon by all ranks before its first forward; None where no rank has data.

        Raises:
            UserError: A rank has never had a micro-batch, or the ranks have made unlike numbers of updates.
        """
        num_own = len(micro_batches)
        own = weigh_own(self._table, micro_batches, num_samples)
        totals = [weights.total if isinstance(weights, UnitWeights) else math.nan for weights in own.values()]
        if micro_batches:
            self._latest, self._has_latest = micro_batches[-1], True
        numbers = [num_own, self._has_latest, accumulator.num_updates, self._wrapper.must_renew, *totals]
        rows = self.ranks.agree("start of a window", [float(number) for number in numbers])
        if rows is None:
            raise left_by_another()
        if not any(row[0] for row in rows):
            return None
        self._check_alike(rows)
        self._wrapper.begin_window(renew=any(row[3] for row in rows))
        nums = self._nums_to_run([int(row[0]) for row in rows])
        num_here = nums[self.ranks.index]
        padded = [*micro_batches, *[self._latest] * (num_here - num_own)]
        num_synced = 1 if self.cost.sync == "last" else min(nums)
        agreed = {unit: math.fsum(row[4 + at] for row in rows) for at, unit in enumerate(self._units)}
        return RankWindow(
            accumulator,
            padded,
            RankShares(self._table, padded, own, agreed, num_own, self.ranks.size),
            self.ranks,
            self._wrapper,
            num_own=num_own,
            synced=frozenset([*range(num_here - num_synced, num_here), *([0] if self._wrapper.begins_synced else [])]),
            comparison=self._comparison,
        )

    def _nums_to_run(self, nums_own: list[int]) -> list[int]:
        """Each rank's number of micro-batches, repeated ones included.

        Where every micro-batch communicates, all ranks run as many. Otherwise each runs its own, or one.
        """
        most = max(nums_own)
        return [max(most if self._wrapper.is_aligned else 1, num) for num in nums_own]

    def _check_alike(self, rows: list[list[float]]) -> None:
        empty = [self.ranks.name(at) for at, row in enumerate(rows) if not row[1]]
        if empty:
            raise UserError(
                f"{', '.join(empty)} has never had a micro-batch, so it cannot take part: give every rank at least one"
            )
        if len({row[2] for row in rows}) > 1:
            listed = ", ".join(f"{self.ranks.name(at)} {row[2]:.0f}" for at, row in enumerate(rows))
            raise UserError(f"the ranks have made unlike numbers of updates ({listed}): load the same state on all")
