"""Gradients: arithmetic on a list of them, in place and without a host sync; where a backward would put them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

_CLIP_EPSILON = 1e-6  # torch.nn.utils.clip_grad_norm_ adds the same to the norm


class WindowGradient:
    """The gradient of a window at its close.

    Args:
        tensors: The gradients of the parameters that have one.
        keeps_factor: Factors are gathered in ``factor``, for a step that takes it along, and not multiplied in.
    """

    def __init__(self, tensors: list[Tensor], *, keeps_factor: bool = False) -> None:
        self.tensors = tensors
        self.factor: float | Tensor | None = None
        self._keeps_factor = keeps_factor

    def multiply(self, factor: float | Tensor) -> None:
        """Scale it."""
        if self._keeps_factor:
            self.factor = factor if self.factor is None else self.factor * factor
        else:
            scale_gradients(self.tensors, factor)

    def norm(self) -> float | Tensor:
        """Its total 2-norm."""
        norm = total_norm(self.tensors)
        return norm if self.factor is None else norm * self.factor

    def clip(self, limit: float, norm: float | Tensor) -> None:
        """Scale it so that its norm, which is known, is at most ``limit``, as torch's ``clip_grad_norm_`` does."""
        coefficient = limit / (norm + _CLIP_EPSILON)
        if isinstance(coefficient, Tensor):
            self.multiply(coefficient.clamp(max=1.0))
        elif coefficient < 1.0:
            self.multiply(coefficient)


def total_norm(gradients: list[Tensor]) -> float | Tensor:
    """The total 2-norm of gradients: a number where reading it is free, else a tensor on their device."""
    gradients = list(map(_dense, gradients)) if any(map(_is_sparse, gradients)) else gradients
    if all([type(gradient) is Tensor and gradient.is_cpu for gradient in gradients]):  # noqa: C419  (a third of the time)
        return math.hypot(*[norm.item() for norm in torch._foreach_norm(gradients)])
    norm = get_total_norm(gradients)
    if hasattr(norm, "full_tensor"):  # of sharded gradients: the norm over all shards
        norm = norm.full_tensor()
    return norm.item() if norm.is_cpu else norm


_is_sparse = attrgetter("is_sparse")


def _dense(gradient: Tensor) -> Tensor:
    """Values with the same norm; a sparse gradient has one row for each time that a row was used."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


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
