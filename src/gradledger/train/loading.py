"""Loaders: which samples make each micro-batch, and which micro-batches are a rank's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset

from gradledger.engine.rewinding import Generators
from gradledger.metrics import Uncounted
from gradledger.train.config import TrainConfig
from gradledger.train.data import length_of
from gradledger.train.workers import SampleNumbers, SeededByMicroBatch, leave_signals_alone


@dataclass(frozen=True)
class Share:
    """The micro-batches that one rank trains on: every ``num_ranks``-th, so that a window of all ranks holds what the
    same window of one process does.

    Args:
        rank: The rank.
        num_ranks: The number of ranks.
        tail: What becomes of the micro-batches at an epoch's end that do not fill a window of all ranks. One process
            leaves that to its accumulator, and keeps them here.
        num_per_window: The micro-batches of a full window, of all ranks together.
        num_epochs: The last epoch keeps its tail under ``"carry"``.

    Example:
        >>> [list(Share(rank, num_ranks=2).numbers(1, 7)) for rank in (0, 1)]
        [[0, 2, 4, 6], [1, 3, 5]]
        >>> carried = Share(0, 2, "carry", num_per_window=4, num_epochs=2)
        >>> [list(carried.numbers(epoch, 7)) for epoch in (1, 2)]
        [[0, 2], [4, 6, 8, 10, 12]]
    """

    rank: int = 0
    num_ranks: int = 1
    tail: str = "keep"
    num_per_window: int = 1
    num_epochs: int = 1

    @classmethod
    def of(cls, rank: int, config: TrainConfig) -> Share:
        """A rank's share in a configured run."""
        if config.num_ranks == 1:
            return cls()
        num_per_window = config.num_ranks * config.num_micro_batches_per_window
        return cls(rank, config.num_ranks, config.tail, num_per_window, config.epochs)

    def numbers(self, epoch: int, num_micro_batches: int) -> range:
        """The numbers of the rank's micro-batches in an epoch, counted from 0 over all epochs.

        Args:
            epoch: From 1.
            num_micro_batches: Of an epoch, of all ranks together.
        """
        first, last = (epoch - 1) * num_micro_batches, epoch * num_micro_batches
        if self.tail == "drop":
            last -= num_micro_batches % self.num_per_window
        elif self.tail == "carry":
            first -= first % self.num_per_window
            last -= last % self.num_per_window if epoch < self.num_epochs else 0
        return range(first + self.rank, last, self.num_ranks)


class MicroBatchSampler(Sampler[list[int]]):
    """The sample numbers of each micro-batch; every epoch has its own order, a function of seed and epoch alone.

    Micro-batch sizes cut one and the same order, so runs with unlike sizes, and unlike numbers of ranks, see the
    samples alike. An epoch may be begun behind any number of its micro-batches.

    Args:
        num_samples: Samples in the data set.
        micro_batch_size: Samples in a micro-batch; the last one of an epoch may be shorter.
        seed: Decides the orders. None: the data set's own order.
        share: The micro-batches to give.
    """

    def __init__(self, num_samples: int, micro_batch_size: int, seed: int | None, share: Share | None = None) -> None:
        self.num_samples = num_samples
        self.micro_batch_size = micro_batch_size
        self.seed = seed
        self.share = share or Share()
        self.epoch = 0
        self.num_skipped = 0

    @property
    def num_micro_batches(self) -> int:
        """Of an epoch, of all ranks together."""
        return -(-self.num_samples // self.micro_batch_size)

    def __len__(self) -> int:
        return len(self.share.numbers(self.epoch, self.num_micro_batches))

    def __iter__(self) -> Iterator[list[int]]:
        pieces_of = lru_cache(maxsize=2)(self._pieces)  # under "carry" an epoch begins with the end of another
        for number in self.share.numbers(self.epoch, self.num_micro_batches)[self.num_skipped :]:
            epochs_before, position = divmod(number, self.num_micro_batches)
            yield SampleNumbers(pieces_of(epochs_before + 1)[position].tolist(), number)

    def _pieces(self, epoch: int) -> tuple[Tensor, ...]:
        if self.seed is None:
            order = torch.arange(self.num_samples)
        else:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(self.num_samples, generator=generator)
        return torch.split(order, self.micro_batch_size)


def make_loader(
    dataset: Dataset[Any],
    micro_batch_size: int,
    seed: int | None,
    share: Share | None = None,
    *,
    num_workers: int = 0,
) -> DataLoader[Any]:
    """A loader of micro-batches that draws nothing from the global random state.

    Its ``sampler`` or ``batch_sampler`` is a :class:`MicroBatchSampler`, except for an iterable data set, which has
    its own order, and of which :func:`own_part` takes a rank's share. Data in tensors are read without workers.
    """
    generator = torch.Generator().manual_seed(0 if seed is None else seed)  # a loader draws a number it may not need
    workers: dict[str, Any] = {"num_workers": num_workers}
    if num_workers:
        workers["worker_init_fn"] = leave_signals_alone
    if isinstance(dataset, IterableDataset):
        return DataLoader(dataset, batch_size=micro_batch_size, generator=generator, **workers)
    sampler = MicroBatchSampler(length_of(dataset), micro_batch_size, seed, share)
    if isinstance(dataset, TensorDataset):  # takes a list of sample numbers at once
        return DataLoader(dataset, sampler=sampler, batch_size=None, generator=generator)
    seeded = SeededByMicroBatch(dataset, seed or 0) if num_workers else dataset
    return DataLoader(seeded, batch_sampler=sampler, generator=generator, **workers)


def set_epoch(loader: DataLoader[Any], epoch: int, num_skipped: int = 0) -> None:
    """Choose the order of the loader's next pass, and behind how many of its micro-batches it begins."""
    for sampler in (loader.sampler, loader.batch_sampler):
        if isinstance(sampler, MicroBatchSampler):
            sampler.epoch, sampler.num_skipped = epoch, num_skipped


class Reading:
    """A rank's micro-batches of an epoch, from any of them on, counted as they are read.

    Args:
        loader: As :func:`make_loader` makes it.
        share: The rank's share of it.
        seed: The run's seed.
    """

    def __init__(self, loader: DataLoader[Any], share: Share, seed: int) -> None:
        self._loader = loader
        self._share = share
        self._seed = seed
        self._is_stream = isinstance(loader.dataset, IterableDataset)
        self.num_read = 0

    def begin(self, epoch: int) -> None:
        """Let the next pass be that of an epoch, behind what was read of it already."""
        set_epoch(self._loader, epoch, self.num_read)
        if self._loader.num_workers and self._loader.generator is not None:  # which the workers' seeds come from
            self._loader.generator.manual_seed(self._seed * 1_000_003 + epoch)

    def end(self) -> None:
        """The epoch is over: the next one is read from its start."""
        self.num_read = 0

    def __len__(self) -> int:
        return len(self._loader)  # of a stream it raises TypeError, as is asked of what has no length

    def __iter__(self) -> Iterator[Any]:
        micro_batches = own_part(self._loader, self._share) if self._is_stream else iter(self._loader)
        if self._is_stream and self.num_read:  # it cannot be begun elsewhere than at its start
            present = Generators(())
            next(islice(micro_batches, self.num_read - 1, None), None)
            present.restore()
        for micro_batch in micro_batches:
            self.num_read += 1
            yield micro_batch


def own_part(loader: DataLoader[Any], share: Share) -> Iterator[Any]:
    """A rank's micro-batches of a loader without a length, which every rank reads whole."""
    return islice(loader, share.rank, None, share.num_ranks)


def evaluation_batches(dataset: Dataset[Any], micro_batch_size: int, share: Share) -> Iterator[Any]:
    """A rank's micro-batches of a data set to evaluate: as many on every rank, where needed one that does not count.

    Sharded models need all ranks in every forward.
    """
    whole = make_loader(dataset, micro_batch_size, None)
    if isinstance(dataset, IterableDataset):
        num_left = 0
        for number, batch in enumerate(whole):
            num_left = (number + 1) % share.num_ranks
            if number % share.num_ranks == share.rank:
                yield batch
    else:
        num_left = len(whole) % share.num_ranks
        yield from make_loader(dataset, micro_batch_size, None, Share(share.rank, share.num_ranks))
    if 0 < num_left <= share.rank:
        yield Uncounted(next(iter(whole)))
