"""Lightning Fabric, alone and with :class:`gradledger.integrations.fabric.ExactWindows`."""

from __future__ import annotations

from lightning.fabric import Fabric

from contenders.tasks import Capture, Gradient, Task, loader_of, made, mean_loss
from gradledger.integrations.fabric import ExactWindows


def alone(task: Task) -> list[Gradient]:
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


def with_adapter(task: Task) -> list[Gradient]:
    fabric = Fabric(accelerator="cpu", devices=1)
    model = made(task)
    capture = Capture(list(model.named_parameters()))
    model, optimizer = fabric.setup(model, capture)
    loader = fabric.setup_dataloaders(loader_of(task))
    batches = ExactWindows(fabric, loader, steps=task.steps, weight=task.weight, accumulate_dtype=task.accumulate_dtype)
    for micro_batch in batches:
        with fabric.no_backward_sync(model, enabled=batches.is_accumulating):
            batches.backward(mean_loss(model, micro_batch))
        if not batches.is_accumulating:
            optimizer.step()
            optimizer.zero_grad()
    return capture.steps
