"""A loader that is read one window ahead, so that each micro-batch's share of it is known before its forward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gradledger.engine.weights import Weight
from gradledger.integrations._weighing import Weigher, sharing
from gradledger.integrations._widening import Widening


class LookAhead:
    """Yields a loader's micro-batches as they are, and says of the current one what it counts.

    Args:
        loader: This rank's micro-batches.
        weight: What a loss is a mean over; None counts samples.
        accumulate_dtype: The type that gradients accumulate in; None is the parameters' own.
    """

    def __init__(self, loader: Iterable[Any], weight: Weight | None, accumulate_dtype: torch.dtype | None) -> None:
        self.loader = loader
        self.share = 1.0
        """What the current micro-batch's mean loss is to be multiplied by."""
        self.is_last = True
        """The current micro-batch is its window's last."""
        self.num_micro_batches = 0
        """In the current window."""
        self.num_windows = 0
        """Windows begun since the first pass."""
        self._weigher = Weigher(weight)
        self._widening = Widening(accumulate_dtype)

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]  # a loader without a length says so itself

    def __iter__(self) -> Iterator[Any]:
        source = iter(self.loader)
        try:
            while (window := self._weigher.read(source, self._num_steps())).micro_batches:
                self.num_windows += 1
                self.num_micro_batches = len(window.micro_batches)
                for position, micro_batch in enumerate(window.micro_batches, start=1):
                    self.share = window.shares[position - 1]
                    self.is_last = position == self.num_micro_batches
                    yield micro_batch
        finally:
            self._widening.narrow()

    @contextmanager
    def sharing(self, loss: Tensor, *, times: float = 1.0) -> Iterator[Tensor]:
        """Around a backward of the current micro-batch: the loss to start it from.

        Args:
            loss: The mean over the current micro-batch's units.
            times: What is divided by afterwards.
        """
        self._widening.widen(loss)
        with sharing(loss, self.share * times) as shared:
            yield shared
        if self.is_last:
            self._widening.narrow()

    def _num_steps(self) -> int:
        """Micro-batches of the next window."""
        raise NotImplementedError
