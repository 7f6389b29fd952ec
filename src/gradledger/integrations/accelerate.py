"""Exact windows, and the audit, for Hugging Face Accelerate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gradledger.engine.weights import Weight
from gradledger.errors import UserError
from gradledger.integrations._look_ahead import LookAhead
from gradledger.integrations._peers import importing
from gradledger.integrations._refusing import check_accelerator
from gradledger.integrations.auditing import audited as audited

with importing("accelerate"):
    from accelerate import Accelerator
    from accelerate.data_loader import DataLoaderStateMixin


class ExactWindows(LookAhead, DataLoaderStateMixin):  # type: ignore[misc]  # accelerate has no types
    """A loader under which ``accelerator.accumulate`` and ``accelerator.backward`` make exact windows.

    Accelerate divides each loss by ``gradient_accumulation_steps``: a mean of means, and too small in an epoch's last,
    shorter window. While this loader is iterated, ``accelerator.backward`` multiplies each mean loss by its weight
    over the window's (and all ranks') total instead. Nothing else of the loop changes. It reads one window ahead.
    Where several optimizers share a gradient scaler, it is updated once a window and not once an optimizer.

    Args:
        accelerator: Its ``gradient_accumulation_steps`` says how many micro-batches make a window.
        loader: What ``accelerator.prepare`` made of the loader.
        weight: What the loss is a mean over, as for :class:`gradledger.Accumulator`: None counts samples.
        accumulate_dtype: The type that gradients accumulate in, such as ``torch.float32`` for bfloat16 parameters; None
            is the parameters' own.

    Raises:
        UserError: Accelerate runs DeepSpeed, Megatron, or tensor, context or sequence parallelism, or carries windows
            over epochs (``sync_with_dataloader=False``).

    Example:
        >>> import torch
        >>> from accelerate import Accelerator
        >>> accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
        >>> model = torch.nn.Linear(2, 1)
        >>> model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        >>> batches = ExactWindows(accelerator, [torch.ones(4, 2), torch.ones(1, 2), torch.ones(3, 2)])
        >>> for batch in batches:
        ...     with accelerator.accumulate(model):
        ...         accelerator.backward(model(batch).mean())
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        ...     print(batches.share)
        0.8
        0.2
        1.0
    """

    def __init__(
        self,
        accelerator: Accelerator,
        loader: Iterable[Any],
        *,
        weight: Weight | None = None,
        accumulate_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(loader, weight, accumulate_dtype)
        check_accelerator(accelerator)
        if not accelerator.gradient_state.sync_with_dataloader:
            raise UserError(
                "sync_with_dataloader=False carries an epoch's last window into the next epoch, before whose end its "
                "weight is not known: leave it out"
            )
        self.accelerator = accelerator
        self.gradient_state = accelerator.gradient_state

    def __iter__(self) -> Iterator[Any]:
        self._check_free()
        with self._divided_exactly(), _updated_once(self.accelerator) as update_scaler:
            try:
                for micro_batch in super().__iter__():
                    self._take_over()
                    yield micro_batch
                    update_scaler()
            finally:
                self.end()

    def _num_steps(self) -> int:
        return int(self.accelerator.gradient_accumulation_steps)

    def _check_free(self) -> None:
        accelerator = self.accelerator
        if "backward" in vars(accelerator):
            raise UserError("this accelerator iterates ExactWindows already: end that loop before another begins")
        open_steps = accelerator.step % accelerator.gradient_accumulation_steps
        if open_steps:
            raise UserError(
                f"the accelerator is inside a window ({open_steps} of {accelerator.gradient_accumulation_steps} "
                "micro-batches), because the last loop was left before its step: drop those gradients with "
                "model.zero_grad() and set accelerator.step = 0"
            )

    def _take_over(self) -> None:
        """Be the loader whose end the accelerator looks at: the one inside has been read further."""
        if self.gradient_state.active_dataloader is not self:
            self.begin()
        is_short = self.num_micro_batches < self._num_steps()
        self.end_of_dataloader = self.is_last and (is_short or getattr(self.loader, "end_of_dataloader", False))
        self.remainder = getattr(self.loader, "remainder", -1)

    @contextmanager
    def _divided_exactly(self) -> Iterator[None]:
        accelerator, original = self.accelerator, self.accelerator.backward

        def backward(loss: Tensor, **options: Any) -> None:
            if accelerator.sync_gradients and not self.is_last:
                raise UserError(
                    f"the accelerator would step in the midst of a window of {self.num_micro_batches} micro-batches: "
                    "put the body of the loop in `with accelerator.accumulate(model):`"
                )
            with self.sharing(loss, times=accelerator.gradient_accumulation_steps) as shared:
                original(shared, **options)

        accelerator.backward = backward
        try:
            yield
        finally:
            del accelerator.backward


@contextmanager
def _updated_once(accelerator: Accelerator) -> Iterator[Any]:
    """Hold a shared scaler's updates back until the micro-batch is over: each of them forgets what was unscaled."""
    scaler = accelerator.scaler
    if scaler is None or len(accelerator._optimizers) < 2:
        yield lambda: None
        return
    original = scaler.update
    held: list[tuple[Any, ...]] = []

    def update() -> None:
        if held:
            original(*held.pop())
            held.clear()

    scaler.update = lambda *new_scale: held.append(new_scale)
    try:
        yield update
        update()
    finally:
        del scaler.update
