"""The Hugging Face Trainer, alone and with :class:`gradledger.integrations.transformers.ExactTrainer`.

Twice: with a model that uses ``num_items_in_batch`` as Hugging Face's own do, and with a loss of the user's own that
is a mean over its micro-batch.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

from contenders.tasks import Capture, Gradient, Task, made, mean_loss
from gradledger.integrations.transformers import ExactTrainer


class InOrder(Trainer):
    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset)


class OwnLoss(InOrder):
    loss_is_scaled_for_ga = False  # so that it is divided by the number of micro-batches

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        return mean_loss(model, inputs)


class Exact(ExactTrainer, InOrder):
    pass


class ExactOwnLoss(ExactTrainer, OwnLoss):
    pass


def alone(task: Task) -> list[Gradient]:
    return _run(InOrder, task)


def with_adapter(task: Task) -> list[Gradient]:
    return _run(Exact, task, weight=task.weight, accumulate_dtype=task.accumulate_dtype)


def own_loss(task: Task) -> list[Gradient]:
    return _run(OwnLoss, task)


def own_loss_with_adapter(task: Task) -> list[Gradient]:
    return _run(ExactOwnLoss, task, weight=task.weight, accumulate_dtype=task.accumulate_dtype)


def _run(kind: type[Trainer], task: Task, **options: Any) -> list[Gradient]:
    model = made(task)
    capture = Capture(list(model.named_parameters()))
    schedule = torch.optim.lr_scheduler.LambdaLR(capture, lambda _: 1.0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=task.steps,
            num_train_epochs=1,
            max_grad_norm=0.0,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
        )
        kind(
            model,
            arguments,
            train_dataset=task.micro_batches,
            data_collator=lambda items: items[0],
            optimizers=(capture, schedule),
            **options,
        ).train()
    return capture.steps
