"""The task that every trainer is given, and what plain training on whole batches makes of it.

Micro-batches are of unlike sizes and hold unlike numbers of labels that count; the last window is short; gradients are
clipped and the rate decays. In float64, so that only arithmetic that is wrong shows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradledger
from engine.oracle import train_on_whole_batches

IGNORED = -100
STEPS = 3
CLIP_NORM = 0.5
SIZES = (4, 1, 3, 2, 5, 2, 6, 1)  # windows of 3, 3 and 2
MicroBatch = dict[str, Tensor]


class Tagger(nn.Module):
    """Labels each token; every label that is not ignored counts."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(torch.tanh(self.hidden(inputs)))
        return {"loss": token_mean(logits, labels), "logits": logits}


def token_mean(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)


def divided_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """The same mean, but NaN in value and gradient where no label counts."""
    counts = (labels != IGNORED).flatten()
    losses = F.cross_entropy(logits.flatten(0, -2), labels.clamp(min=0).flatten(), reduction="none")
    return (losses * counts).sum() / counts.sum()


def sample_mean(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.square().sum((1, 2)).mean() + (logits[:, 0, 0] - 1.0).square().mean()


@dataclass(frozen=True)
class Task:
    """What is trained.

    Args:
        loss: ``loss(logits, labels)``.
        weight: What it is a mean over.
        micro_batches: This rank's.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    weight: Any
    micro_batches: list[MicroBatch]

    def of(self, model: nn.Module, micro_batch: MicroBatch) -> Tensor:
        return self.loss(model(**micro_batch)["logits"], micro_batch["labels"])


def micro_batches(sizes: tuple[int, ...] = SIZES, seed: int = 0) -> list[MicroBatch]:
    """The second one holds no label that counts."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for position, size in enumerate(sizes):
        labels = torch.randint(4, (size, 3), generator=generator)
        ignored = torch.rand(size, 3, generator=generator) < (2.0 if position == 1 else 0.4)
        inputs = torch.randn(size, 3, 3, generator=generator, dtype=torch.float64)
        found.append({"inputs": inputs, "labels": labels.masked_fill(ignored, IGNORED)})
    return found


TASKS = {
    "samples": Task(sample_mean, None, micro_batches()),
    "tokens": Task(token_mean, gradledger.tokens(), micro_batches()),
    "tokens, own sum": Task(divided_sum, gradledger.tokens(), micro_batches()),
}


def made() -> Tagger:
    torch.manual_seed(3)
    return Tagger().double()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)


def schedule_of(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)


def windows(
    task: Task, of_ranks: list[list[MicroBatch]] | None = None, *, steps: int = STEPS
) -> list[list[MicroBatch]]:
    """The micro-batches of each update, those of all ranks together."""
    loaders = of_ranks or [task.micro_batches]
    starts = range(0, max(map(len, loaders)), steps)
    return [[each for loader in loaders for each in loader[start : start + steps]] for start in starts]


@dataclass(frozen=True)
class Run:
    """What a training came to.

    Args:
        model: The trained model.
        losses: Each update's loss, where it is reported.
        norms: Each update's gradient norm before clipping, where it is reported.
    """

    model: nn.Module
    losses: list[float]
    norms: list[float]

    def distance(self, other: Run) -> float:
        """Of the parameters, relative to their norm."""
        ours, theirs = (torch.cat([p.detach().reshape(-1) for p in run.model.parameters()]) for run in (self, other))
        return float((ours - theirs).norm() / theirs.norm())


def whole_batches(
    task: Task, of_ranks: list[list[MicroBatch]] | None = None, *, num_epochs: int = 2, steps: int = STEPS
) -> Run:
    model = made()
    optimizer = optimizer_of(model)
    seen = train_on_whole_batches(
        model,
        optimizer,
        [[(m["inputs"], m["labels"]) for m in window] for window in windows(task, of_ranks, steps=steps)] * num_epochs,
        lambda model, inputs, labels: task.of(model, {"inputs": inputs, "labels": labels}),
        scheduler=schedule_of(optimizer),
        clip_norm=CLIP_NORM,
    )
    return Run(copy.deepcopy(model), [loss for loss, _ in seen], [norm for _, norm in seen])
