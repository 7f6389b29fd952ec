"""Exact windows, and the audit, for the Hugging Face Trainer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradledger.engine.batches.nesting import count_samples
from gradledger.engine.counters import tokens
from gradledger.engine.weights import Weight
from gradledger.errors import UserError
from gradledger.findings import Finding
from gradledger.integrations._peers import importing
from gradledger.integrations._refusing import check_accelerator
from gradledger.integrations._weighing import Weigher, sharing
from gradledger.integrations._widening import Widening
from gradledger.integrations.auditing import TrainingAudit

with importing("transformers"):
    from transformers import Trainer, TrainerCallback
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.trainer_utils import unwrap_peft_model


_PUT_FIRST = "ExactTrainer must come first among its bases, `class Mine(ExactTrainer, Other)`"


@dataclass(slots=True)
class _MicroBatch:
    """The one that is being trained on.

    Args:
        share: What its mean loss is multiplied by.
        until_backward: Closed when its backward has run.
        is_shared: Its loss was.
    """

    share: float
    until_backward: ExitStack
    is_shared: bool = False


class ExactTrainer(Trainer):  # type: ignore[misc]  # mypy does not look into transformers
    """A Trainer whose windows are exact, with any loss; ``class Mine(ExactTrainer, Other)`` makes another Trainer so.

    The Trainer divides by the window's number of labels only where the model's ``forward`` or a ``compute_loss_func``
    takes ``num_items_in_batch`` and uses it; otherwise it adds means, divided by the number of micro-batches or not at
    all. Here every loss is a mean over its own micro-batch, and counts by its weight over the window's (and all ranks')
    total: the model returns its mean, and ``num_items_in_batch`` is the micro-batch's own weight for a loss that takes
    it. The logged loss and gradient norm are the whole batch's.

    Args:
        *args: The Trainer's own arguments.
        weight: What the loss is a mean over, as for :class:`gradledger.Accumulator`. None counts as the Trainer does:
            the labels that are not -100 (for a causal language model without each row's first), or samples where there
            are no labels.
        accumulate_dtype: The type that gradients accumulate in, such as ``torch.float32`` for bfloat16 parameters; None
            is the parameters' own.
        **options: The Trainer's own options.

    Raises:
        UserError: The Trainer runs DeepSpeed, Megatron, DataParallel, or tensor, context or sequence parallelism.

    Example:
        >>> import tempfile, torch
        >>> from transformers import TrainingArguments
        >>> class Model(torch.nn.Module):  # its own mean, whatever the Trainer says
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head = torch.nn.Linear(2, 3)
        ...
        ...     def forward(self, inputs, labels, **_):
        ...         return {"loss": torch.nn.functional.cross_entropy(self.head(inputs), labels)}
        >>> rows = [{"inputs": torch.ones(2), "labels": 1} for _ in range(10)]
        >>> quiet = dict(report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True)
        >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +ELLIPSIS
        ...     arguments = TrainingArguments(
        ...         folder, per_device_train_batch_size=2, gradient_accumulation_steps=4, num_train_epochs=1, **quiet
        ...     )
        ...     result = ExactTrainer(Model(), arguments, train_dataset=rows).train()
        {...}
        >>> result.global_step
        2
    """

    loss_is_scaled_for_ga = True  # the Trainer's way to be told not to divide

    def __init__(
        self,
        *args: Any,
        weight: Weight | None = None,
        accumulate_dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        check_accelerator(self.accelerator)
        if self.args.n_gpu > 1:
            raise UserError("DataParallel averages over devices by itself: start one process a device (torchrun)")
        # Models then return the mean over what they really count, whatever the Trainer believes that to be.
        self.model_accepts_loss_kwargs = False
        self._weigher = Weigher(self._count_items if weight is None else weight)
        self._widening = Widening(accumulate_dtype)
        self._waiting: list[tuple[float, float]] = []
        self._current: _MicroBatch | None = None

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], None]:
        """Read a window, and weigh it. One that ends early is filled up, or the Trainer would not step on it."""
        window = self._weigher.read(epoch_iterator, num_batches, filled=True)
        self._waiting = list(zip(window.weights, window.shares, strict=True))
        return window.micro_batches, None

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch, with its own number of items."""
        if not self._waiting:
            raise UserError(f"{type(self).__name__} reads its windows by itself: {_PUT_FIRST}")
        weight, share = self._waiting.pop(0)
        count = torch.tensor(weight or 1.0, device=self.args.device)
        with ExitStack() as until_backward:
            self._current = current = _MicroBatch(share, until_backward)
            try:
                loss: Tensor = super().training_step(model, inputs, count)
            finally:
                self._current = None
        if not current.is_shared:
            raise UserError(f"the loss of {type(self).__name__} was not given its share of the window: {_PUT_FIRST}")
        if not self._waiting:
            self._widening.narrow()
        return loss

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **options: Any) -> Any:
        """The loss; in training times its share of the window."""
        current = self._current
        if current is None:
            return super().compute_loss(model, inputs, *args, **options)
        current.is_shared = True
        # Where it averages tokens, the Trainer expects a number of items of all ranks and multiplies by the ranks.
        averages, self.args.average_tokens_across_devices = self.args.average_tokens_across_devices, False
        try:
            loss = super().compute_loss(model, inputs, *args, **options)
        finally:
            self.args.average_tokens_across_devices = averages
        loss, rest = (loss[0], loss[1:]) if isinstance(loss, tuple) else (loss, ())
        self._widening.widen(loss)
        shared = current.until_backward.enter_context(sharing(loss, current.share))
        return (shared, *rest) if rest else shared

    def _count_items(self, micro_batch: Any) -> float | Tensor:
        if "shift_labels" in micro_batch:
            return tokens(labels="shift_labels")(micro_batch)
        if "labels" in micro_batch:
            return tokens(shift=self._shifts_labels())(micro_batch)
        return count_samples(micro_batch)

    def _shifts_labels(self) -> bool:
        """The Trainer's own rule, and causal models whose loss it does not know by their name (GPT2LMHeadModel)."""
        model = unwrap_peft_model(self.accelerator.unwrap_model(self.model))
        is_unknown = getattr(model, "loss_type", None) is None
        is_causal = type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        return self._loss_shifts_labels or (is_unknown and is_causal)


class AuditCallback(TrainerCallback):  # type: ignore[misc]
    """Audits ``train``; the first rank logs the findings, and keeps their numbers in the log history.

    A training that an error ends tells nothing: the Trainer has no hook for that. Its audit ends with the next one.

    Args:
        select: Only these rules: slugs, codes or families. None: all.
        ignore: Not these.
        raise_on_findings: End ``train`` with an error where something is at warning or above.

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
        """Those of all ranks, each cause once, when ``train`` has ended."""
        return self._audit.findings

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin."""
        self._audit.begin()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End, and tell."""
        self._audit.end(
            "transformers.gradledger",
            lambda numbers: state.log_history.append({**numbers, "step": state.global_step}),
        )
