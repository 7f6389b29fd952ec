"""The slow, obvious oracle: train on whole effective batches with plain torch, knowing nothing of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def whole_batch(micro_batches: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(leaves) for leaves in zip(*micro_batches, strict=True))


def train_on_whole_batches(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    windows: Iterable[list[tuple[Tensor, ...]]],
    loss_fn: Callable[..., Tensor],
    *,
    scheduler: Any = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
) -> list[tuple[float, float]]:
    """One step per window on its concatenated micro-batches; the loss and gradient norm before clipping of each."""
    seen = []
    for micro_batches in windows:
        for parameter in model.parameters():
            parameter.grad = None
        loss = loss_fn(model, *whole_batch(micro_batches))
        loss.backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
        norm = gradient.pow(2).sum().sqrt().item()
        if clip_norm is not None:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad *= min(1.0, clip_norm / (norm + 1e-6))
        if clip_value is not None:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.clamp(-clip_value, clip_value)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        seen.append((loss.item(), norm))
    return seen


def relative_distance(model: nn.Module, other: nn.Module) -> float:
    """The distance of all parameters together, relative to their norm."""
    ours = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    theirs = torch.cat([p.detach().reshape(-1) for p in other.parameters()])
    return ((ours - theirs).norm() / theirs.norm()).item()
