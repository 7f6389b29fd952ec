"""Gradledger's engine, and the loop written by hand."""

from __future__ import annotations

import torch
from torch import nn

import gradledger
from contenders.tasks import CLIP_NORM, INITIAL_SCALE, Capture, Gradient, Task, made, mean_loss, together, two_accounts


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
