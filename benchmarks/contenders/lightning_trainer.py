"""Lightning's Trainer, alone and with :class:`gradledger.integrations.lightning.ExactWindows`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
from torch import Tensor

from contenders.tasks import Capture, Gradient, Task, loader_of, made, mean_loss
from gradledger.integrations.lightning import ExactWindows

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


class Module(lightning.LightningModule):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = made(task)
        self.capture = Capture(list(self.model.named_parameters()))

    def training_step(self, batch: Any, _: int) -> Tensor:
        return mean_loss(self.model, batch)

    def configure_optimizers(self) -> Any:
        return self.capture


def alone(task: Task) -> list[Gradient]:
    return _run(task)


def with_adapter(task: Task) -> list[Gradient]:
    return _run(task, [ExactWindows(task.weight, accumulate_dtype=task.accumulate_dtype)])


def _run(task: Task, callbacks: Sequence[lightning.Callback] = ()) -> list[Gradient]:
    module = Module(task)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        accumulate_grad_batches=task.steps,
        callbacks=list(callbacks),
        **QUIET,
    )
    trainer.fit(module, loader_of(task))
    return module.capture.steps
