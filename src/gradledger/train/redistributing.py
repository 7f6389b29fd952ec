"""What a state means to ranks: which tensors they hold parts of, and how another number of ranks goes on with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from gradledger.train.checkpoint.encoding import is_in_parts
from gradledger.train.checkpoint.parts import Placing

_OPTIMIZER_STATE = re.compile(r"state\.passes\.accumulator\.optimizer\.state\.(\d+)\.")


def bare(model: nn.Module) -> nn.Module:
    """The user's model, out of its ``DistributedDataParallel``."""
    inside: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    return inside


def placing_of(model: nn.Module, optimizer: Optimizer) -> Placing:
    """Stored tensors are held as the model's own ones, and the optimizer's state as the parameter that it is for."""
    own = {f"model.{name}": tensor for name, tensor in bare(model).state_dict().items() if is_in_parts(tensor)}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def like(name: str, shape: torch.Size) -> Tensor | None:
        match = _OPTIMIZER_STATE.match(name)
        found = own.get(name) if match is None else parameters[int(match[1])]
        return found if is_in_parts(found) and found.shape == shape else None

    return like


def state_of_rank(model: nn.Module, passes: Mapping[str, Any]) -> dict[str, Any]:
    """What ranks do not share: random generators, counters, and buffers, which each may have moved in its own way."""
    accumulator = {name: part for name, part in passes["accumulator"].items() if name != "optimizer"}
    buffers = {name: buffer for name, buffer in bare(model).named_buffers() if not is_in_parts(buffer)}
    return {"passes": {**passes, "accumulator": accumulator}, "buffers": buffers}


def passes_of_rank(state: Mapping[str, Any]) -> dict[str, Any]:
    """The passes' state of the rank that a state was loaded for."""
    shared: dict[str, Any] = state["passes"]
    own = state["of_rank"]["passes"]
    return {**own, "accumulator": {**own["accumulator"], "optimizer": shared["accumulator"]["optimizer"]}}


def load_buffers(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Give a rank its own buffers back."""
    with torch.no_grad():
        for name, buffer in bare(model).named_buffers():
            if name in state["of_rank"]["buffers"]:
                buffer.copy_(state["of_rank"]["buffers"][name])


def num_read_anew(num_read_together: int, rank: int, num_ranks: int) -> int:
    """How many of its micro-batches a rank has done with where ranks of another number have read so many together.

    Ranks take turns, and between windows what was read is the beginning of the epoch.

    Example:
        >>> [num_read_anew(8, rank, 3) for rank in range(3)]
        [3, 3, 2]
    """
    return len(range(rank, num_read_together, num_ranks))
