"""Arithmetic on a list of gradients, in place and without a host sync."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

_CLIP_EPSILON = 1e-6  # torch.nn.utils.clip_grad_norm_ adds the same to the norm


def total_norm(gradients: list[Tensor]) -> float | Tensor:
    """The total 2-norm of gradients: a number where reading it is free, else a tensor on their device."""
    if all([type(gradient) is Tensor and gradient.is_cpu for gradient in gradients]):  # noqa: C419  (a third of the time)
        return math.hypot(*[norm.item() for norm in torch._foreach_norm(gradients)])
    norm = get_total_norm(gradients)
    if hasattr(norm, "full_tensor"):  # of sharded gradients: the norm over all shards
        norm = norm.full_tensor()
    return norm.item() if norm.is_cpu else norm


def clip_to_norm(gradients: list[Tensor], limit: float, norm: float | Tensor) -> None:
    """Scale gradients in place so that their total 2-norm is at most ``limit``, as torch's ``clip_grad_norm_`` does."""
    coefficient = limit / (norm + _CLIP_EPSILON)
    if isinstance(coefficient, Tensor):
        scale_gradients(gradients, coefficient.clamp(max=1.0))
    elif coefficient < 1.0:
        scale_gradients(gradients, coefficient)


def scale_gradients(gradients: list[Tensor], factor: float | Tensor) -> None:
    """Multiply gradients in place."""
    if not gradients:
        return
    with torch.no_grad():
        if all(gradient.layout == torch.strided for gradient in gradients):
            torch._foreach_mul_(gradients, factor)
        else:
            for gradient in gradients:
                gradient.mul_(factor)
