"""The tasks, the optimizer that keeps what it is handed, and the whole batch's own gradient by plain torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

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

    @property
    def accumulate_dtype(self) -> torch.dtype | None:
        """What the adapters are told."""
        return self.settings.get("accumulate_dtype")

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


def made(task: Task) -> nn.Module:
    torch.manual_seed(0)
    return task.make()


def loader_of(task: Task) -> DataLoader:
    return DataLoader(task.micro_batches, batch_size=None)


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


def refused(why: str) -> Callable[[Task], list[Gradient]]:
    def run(_: Task) -> list[Gradient]:
        raise RefusedError(why)

    return run
