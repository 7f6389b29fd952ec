"""Exact windows, and the audit, for Lightning Fabric."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gradledger.engine.grouping import Steps, check_steps
from gradledger.engine.weights import Weight
from gradledger.integrations._look_ahead import LookAhead
from gradledger.integrations._peers import importing
from gradledger.integrations._refusing import check_strategy
from gradledger.integrations.auditing import audited as audited

with importing("lightning"):
    from lightning.fabric import Fabric


class ExactWindows(LookAhead):
    """A loader that knows its windows, for a hand-written loop on Fabric. It reads one window ahead.

    Args:
        fabric: Whose ``backward`` is used.
        loader: What ``fabric.setup_dataloaders`` made of the loader.
        steps: Micro-batches of a window, or a callable that gives them for an update; an epoch's last may be shorter.
        weight: What the loss is a mean over, as for :class:`gradledger.Accumulator`: None counts samples.
        accumulate_dtype: The type that gradients accumulate in, such as ``torch.float32`` for bfloat16 parameters; None
            is the parameters' own.

    Raises:
        UserError: ``steps`` is no whole number above 0, or the strategy is not data-parallel.

    Example:
        >>> import torch
        >>> from lightning.fabric import Fabric
        >>> fabric = Fabric(accelerator="cpu", devices=1)
        >>> model = torch.nn.Linear(2, 1)
        >>> model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
        >>> batches = ExactWindows(fabric, [torch.ones(4, 2), torch.ones(1, 2), torch.ones(3, 2)], steps=2)
        >>> for batch in batches:
        ...     with fabric.no_backward_sync(model, enabled=batches.is_accumulating):
        ...         batches.backward(model(batch).mean())  # a plain mean: nothing is divided by hand
        ...     if not batches.is_accumulating:
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        ...     print(batches.share)
        0.8
        0.2
        1.0
    """

    def __init__(
        self,
        fabric: Fabric,
        loader: Iterable[Any],
        *,
        steps: Steps,
        weight: Weight | None = None,
        accumulate_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(loader, weight, accumulate_dtype)
        check_steps(steps, 0)
        check_strategy(fabric.strategy, fabric.world_size)
        self.fabric = fabric
        self._steps = steps

    @property
    def is_accumulating(self) -> bool:
        """Whether the current micro-batch is followed by another of its window."""
        return not self.is_last

    def backward(self, loss: Tensor, *args: Any, **options: Any) -> None:
        """``fabric.backward`` with the mean loss's exact share of the window.

        Args:
            loss: The mean over the current micro-batch's units, a scalar.
            *args: As for ``fabric.backward``.
            **options: As for ``fabric.backward``.
        """
        with self.sharing(loss) as shared:
            self.fabric.backward(shared, *args, **options)

    def _num_steps(self) -> int:
        return check_steps(self._steps, self.num_windows)
