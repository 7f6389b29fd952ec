"""Exactness: the gradient that each tool steps with, against the whole batch's in float64, on the same tasks.

Every contender gets ready micro-batches, the same model, and an optimizer that keeps the gradients that it is handed
and moves nothing. Contenders are written as their own documentation shows. Run it as ``python
benchmarks/exactness.py``; the result is kept in ``benchmarks/results/exactness.json``.
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from harness import keep, machine
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler

import gradledger

STEPS = 4
CLIP_NORM = 0.05
INITIAL_SCALE = 1024.0
Gradient = dict[str, Tensor]


@dataclass(frozen=True)
class Task:
    """Micro-batches, and what the loss is a mean over.

    Args:
        make: Makes the model, in the precision that is trained in.
        micro_batches: Inputs and labels of each.
        steps: Micro-batches per window; the last window may be shorter.
        weight: What Gradledger is told that the loss is a mean over.
        settings: What else Gradledger is told.
    """

    make: Callable[[], nn.Module]
    micro_batches: list[dict[str, Tensor]]
    steps: int = STEPS
    weight: Any = None
    settings: dict[str, Any] = field(default_factory=dict)

    def windows(self) -> list[list[dict[str, Tensor]]]:
        return [self.micro_batches[at : at + self.steps] for at in range(0, len(self.micro_batches), self.steps)]


class RefusedError(Exception):
    """A contender does not offer what a task needs."""


class Capture(torch.optim.SGD):
    """Keeps the gradients of each step; a learning rate of 0 leaves the parameters alone."""

    def __init__(self, named: Sequence[tuple[str, Tensor]]) -> None:
        super().__init__([parameter for _, parameter in named], lr=0.0)
        self.named, self.steps = list(named), []

    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.steps.append({n: p.grad.double().clone() for n, p in self.named if p.grad is not None})
        return loss


# Models and tasks


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(16, 32), nn.Linear(32, 5)

    def forward(self, inputs: Tensor, labels: Tensor | None = None, **options: Any) -> Any:
        return with_loss(self.head(self.body(inputs).tanh()), labels, **options)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 16), nn.Linear(16, 20)

    def forward(self, inputs: Tensor, labels: Tensor | None = None, **options: Any) -> Any:
        return with_loss(self.head(self.embedding(inputs).tanh()), labels, **options)


class Constant(nn.Module):
    """One weight whose gradient is 1 in every micro-batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8))

    def forward(self, inputs: Tensor, labels: Tensor | None = None, **options: Any) -> Any:
        total = options.get("num_items_in_batch")
        loss = (inputs * self.weight).sum() / (len(inputs) if total is None else total)
        return {"loss": loss, "logits": inputs}


def with_loss(logits: Tensor, labels: Tensor | None, **options: Any) -> Any:
    """The loss as Hugging Face's own models compute it, who are told the window's number of labels."""
    from transformers.loss.loss_utils import fixed_cross_entropy

    flat = logits.flatten(0, -2)
    total = options.get("num_items_in_batch")
    loss = fixed_cross_entropy(flat, labels.flatten(), num_items_in_batch=total)
    return {"loss": loss, "logits": logits}


def mean_loss(model: nn.Module, micro_batch: dict[str, Tensor]) -> Tensor:
    return model(**micro_batch)["loss"]


def classified(sizes: Sequence[int]) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "inputs": torch.randn(n, 16, generator=generator),
            "labels": torch.randint(5, (n,), generator=generator),
        }
        for n in sizes
    ]


def tagged(num_micro_batches: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    found = []
    for _ in range(num_micro_batches):
        ids = torch.randint(20, (4, 12), generator=generator)
        lengths = torch.randint(1, 13, (4, 1), generator=generator)
        found.append({"inputs": ids, "labels": ids.roll(1, 1).masked_fill(torch.arange(12) >= lengths, -100)})
    return found


TASKS = {
    "uneven samples": Task(Classifier, classified([8, 2, 6, 1, 7, 8, 3, 5])),
    "short last window": Task(Classifier, classified([4] * 9)),
    "token weights": Task(Tagger, tagged(8), weight=gradledger.tokens()),
    "bfloat16, 1000 micro-batches": Task(
        lambda: Constant().bfloat16(),
        [{"inputs": torch.ones(1, 8).bfloat16(), "labels": torch.zeros(1, dtype=torch.long)} for _ in range(1000)],
        steps=1000,
        settings={"precision": "bf16-true", "accumulate_dtype": torch.float32},
    ),
}
TWO_OPTIMIZERS = "two optimizers, float16, clipped"


def made(task: Task) -> nn.Module:
    torch.manual_seed(0)
    return task.make()


def loader_of(task: Task) -> DataLoader:
    return DataLoader(task.micro_batches, batch_size=None)


# The whole batch, by plain torch


def joined(window: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([micro_batch[name] for micro_batch in window]) for name in window[0]}


def whole_batches(task: Task, dtype: torch.dtype | None = torch.float64) -> list[Gradient]:
    gradients = []
    for window in task.windows():
        model = made(task) if dtype is None else made(task).to(dtype)
        batch = {k: v.to(dtype) if dtype and v.is_floating_point() else v for k, v in joined(window).items()}
        mean_loss(model, batch).backward()
        gradients.append({name: p.grad.double() for name, p in model.named_parameters()})
    return gradients


# Contenders


def with_gradledger(task: Task) -> list[Gradient]:
    model = made(task)
    capture = Capture(list(model.named_parameters()))
    accumulator = gradledger.Accumulator(model, capture, weight=task.weight, **task.settings)
    for window in accumulator.windows(task.micro_batches, steps=task.steps):
        with window:
            for micro_batch in window:
                window.backward(mean_loss(model, micro_batch))
    return capture.steps


def hand_written(task: Task) -> list[Gradient]:
    model = made(task)
    optimizer = Capture(list(model.named_parameters()))
    for i, micro_batch in enumerate(task.micro_batches):
        loss = mean_loss(model, micro_batch) / task.steps
        loss.backward()
        if (i + 1) % task.steps == 0 or (i + 1) == len(task.micro_batches):
            optimizer.step()
            optimizer.zero_grad()
    return optimizer.steps


def with_accelerate(task: Task) -> list[Gradient]:
    from accelerate import Accelerator

    accelerator = Accelerator(gradient_accumulation_steps=task.steps, cpu=True)
    model = made(task)
    capture = Capture(list(model.named_parameters()))
    model, optimizer, loader = accelerator.prepare(model, capture, loader_of(task))
    for micro_batch in loader:
        with accelerator.accumulate(model):
            accelerator.backward(mean_loss(model, micro_batch))
            optimizer.step()
            optimizer.zero_grad()
    return capture.steps


def with_fabric(task: Task) -> list[Gradient]:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    model = made(task)
    capture = Capture(list(model.named_parameters()))
    model, optimizer = fabric.setup(model, capture)
    loader = fabric.setup_dataloaders(loader_of(task))
    for i, micro_batch in enumerate(loader):
        is_accumulating = (i + 1) % task.steps != 0 and (i + 1) != len(task.micro_batches)
        with fabric.no_backward_sync(model, enabled=is_accumulating):
            fabric.backward(mean_loss(model, micro_batch) / task.steps)
        if not is_accumulating:
            optimizer.step()
            optimizer.zero_grad()
    return capture.steps


def with_lightning(task: Task) -> list[Gradient]:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = made(task)
            self.capture = Capture(list(self.model.named_parameters()))

        def training_step(self, batch: Any, _: int) -> Tensor:
            return mean_loss(self.model, batch)

        def configure_optimizers(self) -> Any:
            return self.capture

    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, accumulate_grad_batches=task.steps, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader_of(task))
    return module.capture.steps


def with_hf_trainer(task: Task) -> list[Gradient]:
    from transformers import Trainer, TrainingArguments

    class InOrder(Trainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(self.train_dataset)

    model = made(task)
    capture = Capture(list(model.named_parameters()))
    schedule = torch.optim.lr_scheduler.LambdaLR(capture, lambda _: 1.0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=1, gradient_accumulation_steps=task.steps, num_train_epochs=1,
            max_grad_norm=0.0, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
            use_cpu=True, remove_unused_columns=False,
        )  # fmt: skip
        InOrder(
            model, arguments, train_dataset=task.micro_batches, data_collator=lambda items: items[0],
            optimizers=(capture, schedule),
        ).train()  # fmt: skip
    return capture.steps


CONTENDERS: dict[str, Callable[[Task], list[Gradient]]] = {
    "gradledger": with_gradledger,
    "hand-written /K": hand_written,
    "accelerate": with_accelerate,
    "fabric": with_fabric,
    "lightning": with_lightning,
    "hf trainer": with_hf_trainer,
}


# Two optimizers under one gradient scaler, each with its own clipping


def two_accounts(model: Classifier) -> tuple[Capture, Capture]:
    named = list(model.named_parameters())
    return tuple(Capture([(n, p) for n, p in named if n.startswith(part)]) for part in ("body", "head"))  # type: ignore[return-value]


def together(captures: Sequence[Capture]) -> list[Gradient]:
    return [{**body, **head} for body, head in zip(*(capture.steps for capture in captures), strict=True)]


def two_whole(task: Task, dtype: torch.dtype | None) -> list[Gradient]:
    gradients = []
    for window in task.windows():
        model, batch = made(task), joined(window)
        if dtype is None:
            with torch.autocast("cpu", torch.float16):
                loss = mean_loss(model, batch)
            (loss * INITIAL_SCALE).backward()
            for parameter in model.parameters():
                parameter.grad /= INITIAL_SCALE
        else:
            model.to(dtype)
            mean_loss(model, {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()}).backward()
        for part in (model.body, model.head):
            nn.utils.clip_grad_norm_(part.parameters(), CLIP_NORM)
        gradients.append({name: p.grad.double() for name, p in model.named_parameters()})
    return gradients


def two_with_gradledger(task: Task) -> list[Gradient]:
    """Each account has its own pass over the window: a backward reaches the account's parameters alone."""
    model = made(task)
    captures = two_accounts(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=INITIAL_SCALE)
    accounts = [
        gradledger.Accumulator(model, capture, clip_norm=CLIP_NORM, precision="16-mixed", scaler=scaler, name=name)
        for name, capture in zip(("body", "head"), captures, strict=True)
    ]
    passes = zip(*(account.windows(task.micro_batches, steps=task.steps) for account in accounts), strict=True)
    for body, head in passes:
        with body, head:
            for micro_batch, _ in zip(body, head, strict=True):
                loss = mean_loss(model, micro_batch)
                body.backward(loss, retain_graph=True)
                head.backward(loss)
    return together(captures)


def two_hand_written(task: Task) -> list[Gradient]:
    model = made(task)
    captures = two_accounts(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=INITIAL_SCALE)
    for i, micro_batch in enumerate(task.micro_batches):
        with torch.autocast("cpu", torch.float16):
            loss = mean_loss(model, micro_batch) / task.steps
        scaler.scale(loss).backward()
        if (i + 1) % task.steps == 0 or (i + 1) == len(task.micro_batches):
            for capture, part in zip(captures, (model.body, model.head), strict=True):
                scaler.unscale_(capture)
                nn.utils.clip_grad_norm_(part.parameters(), CLIP_NORM)
                scaler.step(capture)
            scaler.update()
            model.zero_grad()
    return together(captures)


def two_with_accelerate(task: Task) -> list[Gradient]:
    """Accelerate refuses float16 on a CPU, so its scaler is put in by hand; what follows is its own."""
    from accelerate import Accelerator

    accelerator = Accelerator(gradient_accumulation_steps=task.steps, cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=INITIAL_SCALE)
    model = made(task)
    captures = two_accounts(model)
    prepared, *optimizers, loader = accelerator.prepare(model, *captures, loader_of(task))
    for micro_batch in loader:
        with accelerator.accumulate(prepared):
            with torch.autocast("cpu", torch.float16):
                loss = mean_loss(prepared, micro_batch)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.body.parameters(), CLIP_NORM)
                accelerator.clip_grad_norm_(model.head.parameters(), CLIP_NORM)
            for optimizer in optimizers:
                optimizer.step()
            for optimizer in optimizers:
                optimizer.zero_grad()
    return together(captures)


def refused(why: str) -> Callable[[Task], list[Gradient]]:
    def run(_: Task) -> list[Gradient]:
        raise RefusedError(why)

    return run


TWO_CONTENDERS: dict[str, Callable[[Task], list[Gradient]]] = {
    "gradledger": two_with_gradledger,
    "hand-written /K": two_hand_written,
    "accelerate": two_with_accelerate,
    "fabric": refused("no float16 on a CPU"),
    "lightning": refused("accumulates for one optimizer only"),
    "hf trainer": refused("one optimizer only"),
}


# The table


def worst_error(steps: list[Gradient], expected: list[Gradient]) -> float:
    """The largest relative error over the windows; a window that makes no step is off by its whole gradient."""
    errors = [_relative(own, right) for own, right in zip(steps, expected, strict=False)]
    return max([*errors, *([1.0] * (len(expected) - len(steps)))])


def _relative(own: Gradient, right: Gradient) -> float:
    gap = math.hypot(*(float((own.get(name, 0.0) - value).norm()) for name, value in right.items()))
    return gap / math.hypot(*(float(value.norm()) for value in right.values()))


def measured(run: Callable[[Task], list[Gradient]], task: Task, expected: list[Gradient]) -> dict[str, Any]:
    try:
        steps = run(task)
    except RefusedError as refusal:
        return {"error": None, "why": str(refusal)}
    return {"error": worst_error(steps, expected), "num_steps": len(steps), "num_windows": len(expected)}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    table: dict[str, dict[str, Any]] = {}
    for name, task in TASKS.items():
        expected = whole_batches(task)
        rows = {"whole batch": {"error": worst_error(whole_batches(task, None), expected)}}
        table[name] = {**rows, **{who: measured(run, task, expected) for who, run in CONTENDERS.items()}}
    task = Task(Classifier, classified([4] * 16))
    expected = two_whole(task, torch.float64)
    rows = {"whole batch": {"error": worst_error(two_whole(task, None), expected)}}
    table[TWO_OPTIMIZERS] = {**rows, **{who: measured(run, task, expected) for who, run in TWO_CONTENDERS.items()}}
    for name, row in table.items():
        print(name)
        for who, cell in row.items():
            print(f"    {who:16} {cell['why'] if cell['error'] is None else format(cell['error'], '.1e')}")
    print(keep("exactness", {**machine("accelerate", "lightning", "transformers"), "steps": STEPS, "table": table}))


if __name__ == "__main__":
    main()
