"""What lets several ranks train one model: its wrapping, its evaluation, and its weights in one piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from gradledger.errors import UserError
from gradledger.train.config import Choice
from gradledger.train.ranks import RunRanks
from gradledger.train.registry import Registry


def ddp(
    model: nn.Module,
    *,
    find_unused_parameters: bool = False,
    static_graph: bool = False,
    gradient_as_bucket_view: bool = False,
    bucket_cap_mb: int = 25,
) -> nn.Module:
    """A whole copy of the model on each rank, under ``DistributedDataParallel``.

    Args:
        model: On its device.
        find_unused_parameters: For a model of which a forward may leave parameters out.
        static_graph: For a model of which every forward uses the same parameters in the same way.
        gradient_as_bucket_view: Keep gradients in the buckets that are reduced: less memory.
        bucket_cap_mb: Megabytes of gradients that are reduced together.
    """
    return DistributedDataParallel(
        model,
        find_unused_parameters=find_unused_parameters,
        static_graph=static_graph,
        gradient_as_bucket_view=gradient_as_bucket_view,
        bucket_cap_mb=bucket_cap_mb,
    )


def fsdp2(model: nn.Module, *, replicas: int = 1) -> nn.Module:
    """A part of every parameter, its gradient and the optimizer's state on each rank, by ``fully_shard``.

    Each layer in a ``ModuleList`` is gathered by itself when it runs, the rest of the model together.

    Args:
        model: On its device; the same on all ranks.
        replicas: Groups of ranks that each hold the whole model between them (HSDP); 1: all ranks share one.
    """
    from torch.distributed.fsdp import fully_shard

    num_ranks = dist.get_world_size()
    if not 1 <= replicas <= num_ranks or num_ranks % replicas:
        raise UserError(f"parallel.replicas is {replicas}: it must divide the {num_ranks} ranks")
    device_type = next(model.parameters()).device.type
    if replicas == 1:
        mesh = init_device_mesh(device_type, (num_ranks,))
    else:
        mesh = init_device_mesh(device_type, (replicas, num_ranks // replicas), mesh_dim_names=("replicas", "shards"))
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """What is in the outermost lists of modules and has parameters."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (layer for layer in child if any(True for _ in layer.parameters()))
        else:
            yield from _layers(child)


parallel_registry = Registry("parallel", {"ddp": ddp, "fsdp2": fsdp2}, num_leading=1)


def wrap(model: nn.Module, choice: Choice, ranks: RunRanks) -> nn.Module:
    """The model as the ranks train it; itself where there is one.

    Raises:
        UserError: An argument is wrong, or a user's own callable gave no module.
    """
    if ranks.size == 1:
        return model
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor, src=0)
    wrapped = parallel_registry.make(choice, model)
    if not isinstance(wrapped, nn.Module):
        raise UserError(f"parallel {choice.name!r} gave {type(wrapped).__name__}: it must give a torch.nn.Module")
    return wrapped


def is_sharded(model: nn.Module) -> bool:
    """Whether no rank has the whole model, so that every forward needs all ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule  # takes a while to import

    return any(isinstance(module, FSDPModule) for module in model.modules())  # its parameters may be gathered just now


def to_evaluate(model: nn.Module) -> nn.Module:
    """The model to run without gradients: the same on all ranks, with rank 0's buffers."""
    if not isinstance(model, DistributedDataParallel):
        return model
    bare: nn.Module = model.module
    with torch.no_grad():
        for buffer in bare.buffers():
            dist.broadcast(buffer, src=0)
    return bare


def weights_writer(model: nn.Module) -> Callable[[str], None]:
    """What writes the whole model's weights to a file, safetensors; all ranks come here if the model is sharded."""
    from safetensors.torch import save_file, save_model

    if not is_sharded(model):
        bare = model.module if isinstance(model, DistributedDataParallel) else model
        return lambda path: save_model(bare, path)
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(model, options=options)
    weights = {name: value.contiguous() for name, value in state.items()}
    return lambda path: save_file(weights, path)
