"""Whether a loss couples samples, by experiment: does one sample's gradient feel another sample's activations?

For a loss that is a sum over samples, whatever its denominators, the gradient of sample b's activations does not change
when sample a's activations are nudged. For a contrastive loss it does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradledger.engine.batches.nesting import map_tensors, tensor_leaves
from gradledger.verifier.layers import Call, batch_dim
from gradledger.verifier.trial import Trial

_NUDGE = 0.1  # of the activations' own size: large enough to move any smooth coupling far above rounding
_GOLDEN_ANGLE = 2.399963
_MAX_PLACES = 6


def loss_couples_samples(trial: Trial, whole: list[Call], parts: list[list[Call]]) -> str | None:
    """The name of a module behind which the loss couples samples; None where it does not."""
    places = _places(whole, parts)
    for name, index, dim, size in places:
        plain = _gradient_at(trial, name, index, lambda tensor: tensor)
        nudged = _gradient_at(trial, name, index, partial(_nudged, dim=dim, num_rows=size))
        if plain is None or nudged is None:
            continue
        others = plain.size(dim) - size
        before, after = (each.narrow(dim, size, others) for each in (plain, nudged))
        if float((after - before).norm()) > trial.resolution * float(plain.norm()):
            return name
    return None


def _places(whole: list[Call], parts: list[list[Call]]) -> list[tuple[str, int, int, int]]:
    """Module calls with one output per sample: the first and the last few. With the rows of the first micro-batch."""
    by_key = [{(call.name, call.index): call for call in part} for part in parts]
    found = []
    for call in whole:
        matching = [part[call.name, call.index] for part in by_key if (call.name, call.index) in part]
        if len(matching) < len(parts) or not call.outputs or any(not match.outputs for match in matching):
            continue
        dim = batch_dim(call.outputs[0], [match.outputs[0] for match in matching])
        if dim is not None and call.outputs[0].is_floating_point():
            found.append((call.name, call.index, dim, matching[0].outputs[0].size(dim)))
    half = _MAX_PLACES // 2
    return found if len(found) <= _MAX_PLACES else [*found[:half], *found[-half:]]


def _gradient_at(trial: Trial, name: str, index: int, change: Callable[[Tensor], Tensor]) -> Tensor | None:
    """The gradient of the whole batch's loss with respect to the first tensor that a module call returns."""
    model = trial.fresh()
    leaf: list[Tensor] = []
    num_calls = 0

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls - 1 != index:
            return output
        first = next(tensor for _, tensor in tensor_leaves(output))

        def replaced(tensor: Tensor) -> Tensor:
            if tensor is not first:
                return tensor
            leaf.append(change(tensor.detach()).requires_grad_())
            return leaf[0]

        return map_tensors(output, replaced)

    model.get_submodule(name).register_forward_hook(hook)
    losses = list(trial.losses(model).values())
    if not leaf or not losses:
        return None
    (gradient,) = torch.autograd.grad(sum(losses, torch.zeros_like(losses[0])), leaf[:1], allow_unused=True)
    return None if gradient is None or not gradient.any() else gradient


def _nudged(tensor: Tensor, dim: int, num_rows: int) -> Tensor:
    # A fixed pattern: drawing noise here would be one more random call of the forward.
    steps = torch.arange(1, tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    pattern = torch.sin(steps * _GOLDEN_ANGLE).reshape(tensor.shape)
    size = tensor.square().mean().sqrt().clamp(min=1e-6)
    changed = tensor.clone()
    rows = changed.narrow(dim, 0, num_rows)
    rows += _NUDGE * size * pattern.narrow(dim, 0, num_rows)
    return changed
