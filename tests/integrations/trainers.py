"""Each trainer's loop as its documentation shows it, with gradledger's adapter and without."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DataLoaderConfiguration
from lightning.fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler
from transformers import Trainer, TrainingArguments

from gradledger.integrations import accelerate, fabric, transformers
from gradledger.integrations import lightning as lightning_adapter
from integrations.tasks import CLIP_NORM, STEPS, Run, Task, made, optimizer_of, schedule_of

for _name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.ERROR)

Train = Callable[..., Run]
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def loader_of(task: Task) -> DataLoader[Any]:
    return DataLoader(task.micro_batches, batch_size=None)


def first(items: list[Any]) -> Any:
    return items[0]


def new_accelerator(**options: Any) -> Accelerator:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(cpu=True, **options)


@contextmanager
def their_warnings_ignored() -> Iterator[None]:
    """What the trainers say about torch and about small tasks is not under test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def with_accelerate(task: Task, *, exact: bool, num_epochs: int = 2) -> Run:
    accelerator = new_accelerator(
        gradient_accumulation_steps=STEPS, dataloader_config=DataLoaderConfiguration(even_batches=False)
    )
    model = made()
    optimizer = optimizer_of(model)
    schedule = schedule_of(optimizer)  # prepared, it would step once for each rank
    loader = DataLoader(task.micro_batches, batch_size=1, collate_fn=first)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    norms = []
    batches = accelerate.ExactWindows(accelerator, loader, weight=task.weight) if exact else loader
    for _ in range(num_epochs):
        for micro_batch in batches:
            with accelerator.accumulate(model):
                accelerator.backward(task.of(model, micro_batch))
                if accelerator.sync_gradients:
                    norms.append(accelerator.clip_grad_norm_(model.parameters(), CLIP_NORM).item())
                optimizer.step()
                if accelerator.sync_gradients:
                    schedule.step()
                optimizer.zero_grad()
    return Run(accelerator.unwrap_model(model), [], norms)


def with_fabric(task: Task, *, exact: bool, num_epochs: int = 2, **options: Any) -> Run:
    own = Fabric(accelerator="cpu", **{"devices": 1, **options})
    own.launch()
    model = made()
    plain_optimizer = optimizer_of(model)
    schedule = schedule_of(plain_optimizer)
    model, optimizer = own.setup(model, plain_optimizer)
    loader = own.setup_dataloaders(loader_of(task), use_distributed_sampler=False)
    norms = []

    def update() -> None:
        norms.append(own.clip_gradients(model, optimizer, max_norm=CLIP_NORM).item())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    batches = fabric.ExactWindows(own, loader, steps=STEPS, weight=task.weight) if exact else loader
    for _ in range(num_epochs):
        for i, micro_batch in enumerate(batches, start=1):
            accumulating = batches.is_accumulating if exact else i % STEPS != 0 and i != len(loader)
            with own.no_backward_sync(model, enabled=accumulating):
                loss = task.of(model, micro_batch)
                if exact:
                    batches.backward(loss)
                else:
                    own.backward(loss / STEPS)
            if not accumulating:
                update()
    return Run(model.module, [], norms)


class Module(lightning.LightningModule):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.model = made()
        self.norms: list[float] = []

    def training_step(self, batch: Any, _: int) -> Tensor:
        return self.task.of(self.model, batch)

    def configure_optimizers(self) -> Any:
        optimizer = optimizer_of(self)
        return [optimizer], [{"scheduler": schedule_of(optimizer), "interval": "step"}]

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.norms.append(torch.nn.utils.get_total_norm([p.grad for p in self.parameters()]).item())

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch


def with_lightning(task: Task, *, exact: bool, num_epochs: int = 2, **options: Any) -> Run:
    module = Module(task)
    callbacks = [*options.pop("callbacks", []), *([lightning_adapter.ExactWindows(task.weight)] if exact else [])]
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=num_epochs, accumulate_grad_batches=STEPS, gradient_clip_val=CLIP_NORM,
        callbacks=callbacks, **{"devices": 1, **QUIET, **options},
    )  # fmt: skip
    with their_warnings_ignored():
        trainer.fit(module, loader_of(task))
    return Run(module.model, [], module.norms)


class InOrder(Trainer):
    """Which micro-batches make which window is known."""

    task: Task

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset)


class OwnLoss(InOrder):
    """The loss of a user's own."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        outputs = model(**inputs)
        loss = self.task.loss(outputs["logits"], inputs["labels"])
        return (loss, outputs) if return_outputs else loss


class Exact(transformers.ExactTrainer, InOrder):
    pass


class ExactOwnLoss(transformers.ExactTrainer, OwnLoss):
    pass


def trained_by_hf(kind: type[Trainer], task: Task, model: Any, folder: str, **options: Any) -> Run:
    optimizer = options.pop("optimizer", None) or optimizer_of(model)
    settings = {
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": STEPS, "num_train_epochs": 2,
        "max_grad_norm": CLIP_NORM, "report_to": "none", "save_strategy": "no", "logging_steps": 1,
        "logging_nan_inf_filter": False, "disable_tqdm": True, "use_cpu": True, "remove_unused_columns": False,
        **options.pop("settings", {}),
    }  # fmt: skip
    trainer = kind(
        model, TrainingArguments(folder, **settings), train_dataset=task.micro_batches,
        data_collator=first, optimizers=(optimizer, schedule_of(optimizer)), **options,
    )  # fmt: skip
    trainer.task = task
    with their_warnings_ignored():
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Run(model, [entry["loss"] for entry in logged], [entry["grad_norm"] for entry in logged])


def with_hf_trainer(task: Task, *, exact: bool, num_epochs: int = 2) -> Run:
    settings = {"num_train_epochs": num_epochs}
    with tempfile.TemporaryDirectory() as folder:
        if exact:
            weight = task.weight or (lambda micro_batch: len(micro_batch["labels"]))  # None counts labels here
            return trained_by_hf(ExactOwnLoss, task, made(), folder, weight=weight, settings=settings)
        return trained_by_hf(OwnLoss, task, made(), folder, settings=settings)


TRAINERS: dict[str, Train] = {
    "accelerate": with_accelerate,
    "fabric": with_fabric,
    "lightning": with_lightning,
    "hf trainer": with_hf_trainer,
}
