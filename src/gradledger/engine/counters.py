"""Ready-made weights: what the mean of the usual losses is a mean over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gradledger.errors import UserError

Labels = str | int | Callable[[Any], Tensor]
"""Where a micro-batch's labels are: a key, a position, or a callable that takes the micro-batch."""


Counter = Callable[[Any], float | Tensor]
"""Counts the units of a micro-batch; a number that is on a device stays there, to be fetched with others."""


class _Counter:
    """A callable weight that knows its unit's name, and reads well in an error message."""

    def __init__(self, unit: str, labels: Labels | None, count: Callable[[Tensor], Tensor | int]) -> None:
        self.unit = unit
        self._labels = labels
        self._count = count

    def __call__(self, micro_batch: Any) -> float | Tensor:
        """The number of units; on a device it stays there, and is fetched with those of the whole window."""
        count = self._count(_find_labels(micro_batch, self._labels))
        return count if isinstance(count, Tensor) and not count.is_cpu else float(count)

    def __repr__(self) -> str:
        return f"<counter of {self.unit}>"


def tokens(ignore_index: int = -100, *, shift: bool = False, labels: Labels | None = None) -> Counter:
    """Counts the labels that a cross entropy averages over: those that are not ``ignore_index``.

    Args:
        ignore_index: The label that does not count.
        shift: The model predicts the next token from the same labels (Hugging Face's causal models), so that the first
            position of each sequence has no prediction.
        labels: Where a micro-batch's labels are. None: its ``"labels"``, or the last element of a tuple or list.

    Example:
        >>> import torch
        >>> labels = torch.tensor([[1, 2, -100], [3, -100, -100]])
        >>> tokens()({"labels": labels}), tokens(shift=True)((None, labels))
        (3.0, 1.0)
    """
    if shift:
        return _Counter("tokens", labels, lambda found: (found[..., 1:] != ignore_index).sum())
    return _Counter("tokens", labels, lambda found: (found != ignore_index).sum())


def class_weights(weight: Tensor, *, ignore_index: int = -100, labels: Labels | None = None) -> Counter:
    """Sums the class weights of the labels: the denominator of ``cross_entropy(..., weight=weight)``.

    Args:
        weight: One weight for each class, the same as the loss gets.
        ignore_index: The label that does not count.
        labels: As for :func:`tokens`.

    Example:
        >>> import torch
        >>> class_weights(torch.tensor([1.0, 3.0]))((None, torch.tensor([0, 1, 1])))
        7.0
    """
    on_device = {torch.device("cpu"): weight.detach().double().cpu()}

    def count(found: Tensor) -> Tensor:
        own = on_device.get(found.device)
        if own is None:
            dtype = torch.float32 if found.device.type == "mps" else torch.float64
            own = on_device[found.device] = weight.detach().to(found.device, dtype)
        counts = found != ignore_index
        return own[found.where(counts, 0)].masked_fill(~counts, 0.0).sum()

    return _Counter("class weight", labels, count)


def elements(*, labels: Labels | None = None) -> Counter:
    """Counts the elements of the labels: the denominator of ``mse_loss`` and its kin over ragged targets.

    Args:
        labels: As for :func:`tokens`.

    Example:
        >>> import torch
        >>> elements()((None, torch.zeros(4, 5)))
        20.0
    """
    return _Counter("elements", labels, lambda found: found.numel())


def _find_labels(micro_batch: Any, labels: Labels | None) -> Tensor:
    if labels is None:
        labels = "labels" if isinstance(micro_batch, Mapping) else -1
    try:
        found = labels(micro_batch) if callable(labels) else micro_batch[labels]
    except (KeyError, IndexError, TypeError):
        raise UserError(
            f"a micro-batch of type {type(micro_batch).__name__} has no labels at {labels!r}: say where they are with "
            "labels= (a key, a position, or a callable)"
        ) from None
    if not isinstance(found, Tensor):
        raise UserError(f"the labels at {labels!r} are no tensor but a {type(found).__name__}: say where with labels=")
    return found
