"""The first layer whose output for a sample depends on the other samples that it is computed with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gradledger.engine.batches.nesting import tensor_leaves
from gradledger.verifier.trial import Trial


@dataclass(slots=True)
class Call:
    """One call of one module.

    Args:
        name: The module's name; empty for the model itself.
        kind: Its class.
        index: How many calls of it came before, in this forward.
        inputs: The tensors that went in.
        outputs: The tensors that came out.
    """

    name: str
    kind: str
    index: int
    inputs: list[Tensor] = field(repr=False)
    outputs: list[Tensor] = field(repr=False)


@dataclass(frozen=True, slots=True)
class CoupledLayer:
    """A layer that couples samples.

    Args:
        name: Its name.
        kind: Its class.
        before: The module whose input showed it, where the coupling is in code between a layer's own modules.
    """

    name: str
    kind: str
    before: str | None = None


def watch(trial: Trial, at: int | None) -> list[Call]:
    """The calls of one forward, in the order in which they end."""
    model = trial.fresh()
    calls: list[Call] = []
    counts: dict[str, int] = {}

    def note(name: str, module: nn.Module) -> None:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            index = counts.get(name, 0)
            counts[name] = index + 1
            kind = type(module).__name__
            calls.append(Call(name, kind, index, _leaves((args, kwargs)), _leaves(output)))

        module.register_forward_hook(hook, with_kwargs=True)

    for name, module in model.named_modules():
        note(name, module)
    with torch.no_grad():
        trial.losses(model, at)
    return calls


def first_coupled_layer(whole: list[Call], parts: list[list[Call]], resolution: float) -> CoupledLayer | None:
    """The first layer whose output differs although its input does not, or in whose code the inputs came apart.

    Args:
        whole: The calls of the whole batch's forward.
        parts: The calls of each micro-batch's.
        resolution: Relative differences below this are rounding.
    """
    by_key = [{(call.name, call.index): call for call in part} for part in parts]
    kinds = {call.name: call.kind for call in whole}
    for call in whole:
        matching = [found for part in by_key if (found := part.get((call.name, call.index))) is not None]
        if len(matching) < len(parts) or _agree(call.outputs, [match.outputs for match in matching], resolution):
            continue
        if _agree(call.inputs, [match.inputs for match in matching], resolution):
            return CoupledLayer(call.name, call.kind)
        parent = call.name.rpartition(".")[0]
        return CoupledLayer(parent, kinds.get(parent, "Module"), before=call.name)
    return None


def batch_dim(whole: Tensor, parts: list[Tensor]) -> int | None:
    """The dimension along which the parts make up the whole; None where there is no single one."""
    if any(part.dim() != whole.dim() for part in parts):
        return None
    unlike = [dim for dim in range(whole.dim()) if any(part.size(dim) != whole.size(dim) for part in parts)]
    if len(unlike) != 1 or sum(part.size(unlike[0]) for part in parts) != whole.size(unlike[0]):
        return None
    return unlike[0]


def _agree(whole: list[Tensor], parts: list[list[Tensor]], resolution: float) -> bool:
    for position, tensor in enumerate(whole):
        matching = [part[position] for part in parts if position < len(part)]
        dim = batch_dim(tensor, matching) if len(matching) == len(parts) else None
        if dim is None or not tensor.is_floating_point():
            continue
        joined = torch.cat(matching, dim)
        if not _is_close(joined, tensor, resolution) and not _is_reordered(joined, tensor, dim, resolution):
            return False
    return True


def _is_close(one: Tensor, other: Tensor, resolution: float) -> bool:
    return float((one - other).norm()) <= resolution * float(other.norm())


def _is_reordered(one: Tensor, other: Tensor, dim: int, resolution: float) -> bool:
    """Whether the rows are the same in another order, as where tokens are sorted by the expert that they go to."""

    def outline(tensor: Tensor, power: int) -> Tensor:
        return (
            tensor.movedim(dim, 0).flatten(1).pow(power).sum(1).sort().values
            if tensor.dim() > 1
            else tensor.sort().values
        )

    return all(_is_close(outline(one, power), outline(other, power), resolution) for power in (1, 2))


def _leaves(value: Any) -> list[Tensor]:
    return [leaf.detach().clone() for _, leaf in tensor_leaves(value)]
