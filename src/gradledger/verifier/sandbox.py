"""Keeps the user's model, its gradients and the random generators exactly as they were."""

from __future__ import annotations

import copy
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from gradledger.engine.batches.nesting import map_tensors
from gradledger.engine.rewinding import Generators
from gradledger.errors import UserError


class Sandbox:
    """A context that ends with the user's model and the random generators as they were at its beginning.

    Experiments run on copies. Where the user's loss function or step reaches past its arguments to the model itself,
    the model is put back and the context ends in an error that says so.

    Args:
        model: The user's model.
        callback: What the user's function is called in messages.

    Raises:
        UserError: On leaving, where the model was changed.
    """

    def __init__(self, model: nn.Module, callback: str = "loss_fn") -> None:
        self._model = model
        self._callback = callback

    def __enter__(self) -> Sandbox:
        tensors = [*self._model.named_parameters(), *self._model.named_buffers()]
        self._generators = Generators({tensor.device for _, tensor in tensors})
        self._values = [(tensor, tensor.detach().clone()) for _, tensor in tensors]
        self._gradients = [(p, p.grad, None if p.grad is None else p.grad.clone()) for p in self._model.parameters()]
        self._modes = [(module, module.training) for module in self._model.modules()]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._generators.restore()
        was_changed = False
        with torch.no_grad():
            for tensor, value in self._values:
                if not _equal(tensor, value):
                    tensor.copy_(value)
                    was_changed = True
            for parameter, gradient, kept in self._gradients:
                if parameter.grad is not gradient or (kept is not None and not _equal(parameter.grad, kept)):
                    parameter.grad = gradient if kept is None else kept
                    was_changed = True
        for module, mode in self._modes:
            module.training = mode
        if was_changed and kind is None:
            raise UserError(
                f"{self._callback} changed the model itself instead of the copy that it was given (the model has been "
                f"put back): use the model that is its argument"
            )


def copy_of(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A deep copy without gradients, its floating-point parameters and buffers in another type.

    Raises:
        UserError: The model cannot be copied.
    """
    try:
        twin = copy.deepcopy(model)
    except Exception as error:
        raise UserError(f"the model cannot be copied with copy.deepcopy: {error}") from error
    for parameter in twin.parameters():
        parameter.grad = None
    return twin if dtype is None else twin.to(dtype)


def copy_of_batch(batch: Any, dtype: torch.dtype | None = None) -> Any:
    """A copy of a batch, its floating-point tensors in another type."""
    return map_tensors(batch, lambda leaf: _copied(leaf, dtype))


def _copied(leaf: Tensor, dtype: torch.dtype | None) -> Tensor:
    twin = leaf.detach().clone()
    return twin if dtype is None or not leaf.is_floating_point() else twin.to(dtype)


def _equal(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and torch.equal(torch.nan_to_num(one.detach()), torch.nan_to_num(other))
