"""Models sharded with FSDP2 (``fully_shard``): each rank holds a part of every parameter and of its gradient."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from gradledger.engine.parallel.older_torch import parameter_groups_of, reset_iter_state
from gradledger.engine.parallel.wrappers import Wrapper
from gradledger.errors import UserError


class Shards(Wrapper):
    """What FSDP2 shards. Its forwards and backwards gather parameters, so that all ranks run as many.

    Args:
        modules: The outermost sharded modules.

    Raises:
        UserError: Parameters are split in another way than FSDP2's own, over unlike meshes, or a divide factor is set.
    """

    is_aligned = True

    def __init__(self, modules: Sequence[FSDPModule]) -> None:
        super().__init__([module for module in modules if isinstance(module, nn.Module)])
        self._modules = modules
        self._unsharded: dict[int, Tensor] = {}
        self._has_begun = False
        mesh = _mesh_of([p for p in self.reduced() if isinstance(p, DTensor)])
        self.group = _group_of(mesh)
        self.copies = _copies_in(mesh, self.group)
        self.divisor = float(dist.get_world_size(self.group))
        self.num_shards = mesh.size(mesh.ndim - 1)
        self._check_divide_factors()
        reference = weakref.ref(self)

        def notice_parameters(module: nn.Module, _inputs: Any) -> None:
            shards = reference()
            if shards is not None and shards._is_watching:
                shards._has_begun = True
                found = [p for p in module.parameters() if p.requires_grad and not isinstance(p, DTensor)]
                shards._unsharded.update((id(p), p) for p in found)

        for module in self._all():
            self._keep(module.register_forward_pre_hook(notice_parameters))

    def hold(self) -> None:
        """Keep whole gradients on each rank."""
        for module in self._modules:
            module.set_requires_gradient_sync(False)
            module.set_is_last_backward(False)

    def release(self) -> None:
        """Reduce them and keep this rank's part."""
        for module in self._modules:
            module.set_requires_gradient_sync(True)
            module.set_is_last_backward(True)

    def leaves(self) -> list[Tensor]:
        """The gathered parameters of the window's forwards, in which gradients accumulate before the reduction."""
        return list(self._unsharded.values())

    def reduced(self) -> list[Tensor]:
        """The sharded parameters."""
        return [p for module in self._outermost() for p in module.parameters() if p.requires_grad]

    def gradient_bytes(self) -> int:
        """The bytes of one whole set of gradients, in the type that the mixed-precision policy reduces in."""
        return sum(
            parameter.sharded_param.numel() * (_reduced_type(group) or parameter.sharded_param.dtype).itemsize
            for group in self._parameter_groups()
            for parameter in group.fsdp_params
            if parameter.sharded_param.requires_grad
        )

    def watch(self, *, on: bool) -> None:
        """Begin or end noticing forwards."""
        super().watch(on=on)
        self._unsharded.clear()
        self._has_begun = False

    def abandon(self) -> None:
        """Forget gradients that were not reduced yet: they would count in the next window."""
        if not self._has_begun:
            return
        for module in self._modules:
            reset_iter_state(module)  # which leaves what was accumulated
        for leaf in self.leaves():
            leaf.grad = None
        for group in self._parameter_groups():
            for parameter in group.fsdp_params:
                parameter.unsharded_accumulated_grad = None

    def _outermost(self) -> list[nn.Module]:
        return [module for module in self._modules if isinstance(module, nn.Module)]

    def _all(self) -> list[nn.Module]:
        return [part for module in self._outermost() for part in module.modules() if isinstance(part, FSDPModule)]

    def _check_divide_factors(self) -> None:
        for group in self._parameter_groups():
            if group.gradient_divide_factor not in (None, self.divisor):
                raise UserError(
                    f"set_gradient_divide_factor({group.gradient_divide_factor}) was called on a sharded module: "
                    "leave it out, the window divides by the whole effective batch's weight"
                )

    def _parameter_groups(self) -> list[Any]:
        states = [module._get_fsdp_state() for module in self._all() if isinstance(module, FSDPModule)]
        return [group for state in states for group in parameter_groups_of(state)]


def outermost_shards(model: nn.Module) -> list[FSDPModule]:
    """The sharded modules of a model that are in no other one."""
    found: list[FSDPModule] = []
    inside: set[int] = set()
    for module in model.modules():
        if isinstance(module, FSDPModule) and id(module) not in inside:
            found.append(module)
            assert isinstance(module, nn.Module)
            inside.update(id(part) for part in module.modules())
    return found


def _reduced_type(group: Any) -> torch.dtype | None:
    """The type that a group of parameters has its gradients reduced in; None: the parameters' own."""
    policy = group.mp_policy
    chosen: torch.dtype | None = policy.reduce_dtype or policy.param_dtype
    return chosen


def _mesh_of(parameters: Sequence[DTensor]) -> DeviceMesh:
    meshes = {parameter.device_mesh for parameter in parameters}
    layouts = {tuple(placement.is_shard() for placement in parameter.placements) for parameter in parameters}
    if len(meshes) != 1 or not layouts <= {(True,), (False, True)}:
        raise UserError(
            "the model's parameters are sharded over several meshes, or in another way than fully_shard's own (as in "
            "tensor parallelism): only one mesh of data-parallel ranks, with or without replicas, is supported"
        )
    return meshes.pop()


def _group_of(mesh: DeviceMesh) -> dist.ProcessGroup:
    if mesh.size() == dist.get_world_size():
        assert dist.group.WORLD is not None
        return dist.group.WORLD
    if mesh.ndim == 1:
        return mesh.get_group()
    raise UserError("a mesh with replicas that does not hold all ranks is not supported: shard over all of them")


def _copies_in(mesh: DeviceMesh, group: dist.ProcessGroup) -> list[list[int]]:
    """The ranks, by their places in the group, that hold the same part of the model."""
    if mesh.ndim == 1:
        return []
    places = [[dist.get_group_rank(group, rank) for rank in row] for row in mesh.mesh.tolist()]
    return [list(column) for column in zip(*places, strict=True)]
