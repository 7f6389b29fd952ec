"""Small facts about tensors and schedulers, read without waiting for a device."""

from __future__ import annotations

import math
from typing import Any

import torch


def is_zero(tensor: torch.Tensor) -> bool:
    """All zeros, as far as a look costs no wait."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        return False
    few = tensor.detach().flatten()[:256]
    return not few.any() and not tensor.detach().any()


def is_finite(losses: list[Any]) -> bool | None:
    """Whether the loss is finite, where looking costs no wait."""
    if len(losses) != 1 or losses[0].numel() != 1 or losses[0].device.type != "cpu":
        return None
    return math.isfinite(losses[0].detach().item())


def horizon(scheduler: Any) -> int | None:
    """The number of steps that a scheduler was built for."""
    for name in ("T_max", "total_steps", "total_iters"):
        value = getattr(scheduler, name, None)
        if isinstance(value, int):
            return value
    for function in getattr(scheduler, "lr_lambdas", None) or ():
        value = getattr(function, "keywords", {}).get("num_training_steps")
        if isinstance(value, int):
            return value
    return None


def memory_share(parameters: list[torch.Tensor]) -> float | None:
    """The peak share of these parameters' device's memory, where the device keeps count."""
    device = parameters[0].device if parameters else None
    if device is None or device.type != "cuda":
        return None
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.max_memory_reserved(device) / total
