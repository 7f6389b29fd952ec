"""Gradients: arithmetic on a list of them, in place and without a host sync; where a backward would put them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

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


def graph_leaves(loss: Tensor) -> Iterator[Tensor]:
    """The tensors that a backward from the loss would arrive at."""
    seen: set[Any] = set()
    pending = [loss.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            yield leaf
        pending.extend(following for following, _ in node.next_functions)


@contextmanager
def silenced(leaves: Iterable[Tensor]) -> Iterator[None]:
    """Inside, a backward adds exactly 0 to every gradient, also where its graph yields NaN."""
    handles: list[Any] = [leaf.register_hook(torch.zeros_like) for leaf in leaves]  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
