"""Accelerate, alone and with :class:`gradledger.integrations.accelerate.ExactWindows`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from contenders.tasks import (
    CLIP_NORM,
    INITIAL_SCALE,
    Capture,
    Gradient,
    Task,
    loader_of,
    made,
    mean_loss,
    together,
    two_accounts,
)
from gradledger.integrations.accelerate import ExactWindows


def alone(task: Task) -> list[Gradient]:
    return _run(task, exact=False)


def with_adapter(task: Task) -> list[Gradient]:
    return _run(task, exact=True)


def _run(task: Task, *, exact: bool) -> list[Gradient]:
    accelerator = Accelerator(gradient_accumulation_steps=task.steps, cpu=True)
    model = made(task)
    capture = Capture(list(model.named_parameters()))
    model, optimizer, loader = accelerator.prepare(model, capture, loader_of(task))
    for micro_batch in _batches(accelerator, loader, task, exact=exact):
        with accelerator.accumulate(model):
            accelerator.backward(mean_loss(model, micro_batch))
            optimizer.step()
            optimizer.zero_grad()
    return capture.steps


def _batches(accelerator: Accelerator, loader: Any, task: Task, *, exact: bool) -> Iterable[Any]:
    if not exact:
        return loader
    return ExactWindows(accelerator, loader, weight=task.weight, accumulate_dtype=task.accumulate_dtype)


def two_alone(task: Task) -> list[Gradient]:
    return _run_two(task, exact=False)


def two_with_adapter(task: Task) -> list[Gradient]:
    return _run_two(task, exact=True)


def _run_two(task: Task, *, exact: bool) -> list[Gradient]:
    """Accelerate refuses float16 on a CPU, so it is told by hand that it has it; what follows is its own."""
    accelerator = Accelerator(gradient_accumulation_steps=task.steps, cpu=True)
    accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=INITIAL_SCALE)
    model = made(task)
    captures = two_accounts(model)
    prepared, *optimizers, loader = accelerator.prepare(model, *captures, loader_of(task))
    for micro_batch in _batches(accelerator, loader, task, exact=exact):
        with accelerator.accumulate(prepared):
            accelerator.backward(mean_loss(prepared, micro_batch))
            if accelerator.sync_gradients:
                accelerator.unscale_gradients()  # of all optimizers; clip_grad_norm_ would do it once for each call
                for part in (model.body, model.head):
                    nn.utils.clip_grad_norm_(part.parameters(), CLIP_NORM)
            for optimizer in optimizers:
                optimizer.step()
            for optimizer in optimizers:
                optimizer.zero_grad()
    accelerator.state._mixed_precision = "no"
    return together(captures)
