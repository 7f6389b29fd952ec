"""Exact windows, and the audit, as callbacks of Lightning's Trainer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradledger.engine.gradients import graph_leaves, scale_gradients, silenced
from gradledger.engine.weights import Weight
from gradledger.errors import UserError
from gradledger.findings import Finding
from gradledger.integrations._peers import importing
from gradledger.integrations._refusing import check_strategy
from gradledger.integrations._weighing import Weigher, exchange, find_ranks
from gradledger.integrations._widening import Widening
from gradledger.integrations.auditing import TrainingAudit

with importing("lightning"):
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature


class ExactWindows(Callback):  # type: ignore[misc]  # mypy does not look into Lightning
    """Makes automatic optimization with ``accumulate_grad_batches`` exact.

    Lightning divides each loss by ``accumulate_grad_batches``: a mean of means, and too small in an epoch's last,
    shorter window. With this callback each mean loss counts by its weight: relative to the first one's before the
    backward, and with one factor on the gradients before they are clipped, when the window's (and all ranks') total is
    known. Put it first among the callbacks, so that others see the final gradients.

    Args:
        weight: What the loss of ``training_step`` is a mean over, as for :class:`gradledger.Accumulator`: None counts
            samples.
        accumulate_dtype: The type that gradients accumulate in, such as ``torch.float32`` for bfloat16 parameters; None
            is the parameters' own.

    Raises:
        UserError: ``weight`` is a mapping or no weight. In ``fit``: the module optimizes manually or takes
            ``dataloader_iter``, or the strategy is not data-parallel.

    Example:
        >>> import gradledger, lightning
        >>> trainer = lightning.Trainer(
        ...     accelerator="cpu", accumulate_grad_batches=4, callbacks=[ExactWindows(gradledger.tokens())],
        ...     logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ... )
    """

    def __init__(self, weight: Weight | None = None, *, accumulate_dtype: torch.dtype | None = None) -> None:
        self._weigher = Weigher(weight)
        self._widening = Widening(accumulate_dtype)
        self._reference: float | None = None
        self._weight = 0.0
        self._total = 0.0
        self._silence = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be made exact."""
        if stage != "fit":
            return
        if not pl_module.automatic_optimization:
            raise UserError(
                "manual optimization divides and steps by itself, so ExactWindows has nothing to act on: train with "
                "gradledger.Accumulator, or use automatic optimization"
            )
        if is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
            raise UserError(
                "training_step(dataloader_iter) fetches batches that no callback sees: take the batch itself"
            )
        check_strategy(trainer.strategy, trainer.world_size)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with no window open."""
        self._reference, self._total = None, 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the micro-batch."""
        (self._weight,) = self._weigher.weigh([batch])

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Weigh the loss against the first one of all ranks; what accumulates stays of the size of one gradient."""
        if self._reference is None:
            self._reference = max(row[0] for row in exchange(find_ranks(), self._weight)) or 1.0
        self._total += self._weight
        self._widening.widen(loss)
        if self._weight == 0.0:
            self._silence.enter_context(silenced(list(graph_leaves(loss))))
            loss.zero_()
        elif self._weight != self._reference:
            loss.mul_(self._weight / self._reference)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let gradients through again."""
        self._silence.close()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Put the total in place of the trainer's own division."""
        rows = exchange(find_ranks(), self._total)
        total, self._total = math.fsum(row[0] for row in rows), 0.0
        assert self._reference is not None
        factor = trainer.accumulate_grad_batches * len(rows) * self._reference / total if total else 1.0
        if factor != 1.0:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            scale_gradients(gradients, factor)
        self._widening.narrow()


class AuditCallback(Callback):  # type: ignore[misc]
    """Audits ``fit``; the first rank logs the findings, and their numbers to the trainer's loggers.

    Args:
        select: Only these rules: slugs, codes or families. None: all.
        ignore: Not these.
        raise_on_findings: End ``fit`` with an error where something is at warning or above.

    Raises:
        UserError: ``select`` or ``ignore`` names no rule, or findings were to be an error.
    """

    def __init__(
        self,
        *,
        select: Iterable[str] | None = None,
        ignore: Iterable[str] | None = None,
        raise_on_findings: bool = False,
    ) -> None:
        self._audit = TrainingAudit(select, ignore, raise_on_findings)

    @property
    def findings(self) -> list[Finding]:
        """Those of all ranks, each cause once, when ``fit`` has ended."""
        return self._audit.findings

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin."""
        if stage == "fit":
            self._audit.begin()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End, and tell."""

        def log(numbers: dict[str, float]) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=trainer.global_step)

        self._audit.end("lightning.pytorch.gradledger", log)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End: the error is what there is to tell."""
        self._audit.abandon()
