"""Processes that read samples, with random numbers that depend neither on their number nor on where a run began."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info


class SampleNumbers(list[int]):
    """The numbers of a micro-batch's samples.

    Args:
        samples: The samples.
        number: The micro-batch's own number, counted over all epochs.
    """

    def __init__(self, samples: Sequence[int], number: int) -> None:
        super().__init__(samples)
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return SampleNumbers, (list(self), self.number)


class SeededByMicroBatch(Dataset[Any]):
    """A data set whose random numbers, in a worker, are a function of the seed and the micro-batch's number.

    A worker's own generator would depend on how many micro-batches it has read already, and so on where the run was
    gone on from. In the training process the global generators are used, which a checkpoint holds.

    Args:
        dataset: What is read.
        seed: The run's seed.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitems__(self, samples: SampleNumbers) -> list[Any]:
        """The samples of a micro-batch."""
        if get_worker_info() is not None:
            seed = int(np.random.SeedSequence([self.seed, samples.number]).generate_state(1)[0])
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
        return [self.dataset[sample] for sample in samples]


def leave_signals_alone(_worker: int) -> None:
    """Signals that ask the run to stop are the training process's; it ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
