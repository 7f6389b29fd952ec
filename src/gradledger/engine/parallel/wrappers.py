"""The wrappers that reduce gradients over ranks: how reduction is held back, and what is undone of it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from gradledger.engine.batches.nesting import tensor_leaves
from gradledger.engine.gradients import silenced
from gradledger.errors import UserError


class Wrapper:
    """What DDP and FSDP2 have in common. Forwards through the wrapping modules are noticed.

    Args:
        modules: The outermost wrapping modules.
    """

    divisor: float
    """What each rank's gradient is divided by in the reduction."""
    group: dist.ProcessGroup
    """The ranks that it reduces over."""
    is_aligned: bool
    """Every micro-batch communicates, so that all ranks need as many."""
    copies: Sequence[Sequence[int]]
    """The places in the group of ranks that have equal gradients after the reduction."""
    num_shards: int
    """Over how many ranks each gradient is shared out by the reduction."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._outputs: list[Any] = []
        self._is_watching = False
        reference = weakref.ref(self)

        def notice(_module: nn.Module, _inputs: Any, output: Any) -> None:
            wrapper = reference()
            if wrapper is not None and wrapper._is_watching and torch.is_grad_enabled():
                wrapper._outputs.append(output)

        for module in modules:
            self._keep(module.register_forward_hook(notice))

    def _keep(self, handle: RemovableHandle) -> None:
        """Remove a hook when the wrapper is forgotten."""
        weakref.finalize(self, handle.remove)

    @property
    def awaits_first_forward(self) -> bool:
        """The other ranks wait for the window's first forward, so that nothing can be told before it."""
        return False

    @property
    def begins_synced(self) -> bool:
        """The first micro-batch of all must reduce, so that the wrapper learns the graph."""
        return False

    def hold(self) -> None:
        """From here on, forwards and backwards reduce nothing."""
        raise NotImplementedError

    def release(self) -> None:
        """From here on, they do."""
        raise NotImplementedError

    def leaves(self) -> list[Tensor]:
        """The tensors that gradients accumulate in."""
        raise NotImplementedError

    def reduced(self) -> list[Tensor]:
        """The parameters whose gradients are reduced."""
        return self.leaves()

    def gradient_bytes(self) -> int:
        """The bytes of one whole set of gradients, as it is reduced."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.reduced())

    def abandon(self) -> None:
        """Forget the gradients that were held back."""

    def watch(self, *, on: bool) -> None:
        """Begin or end noticing forwards; what was noticed is forgotten."""
        self._is_watching = on
        self._outputs.clear()

    def take_outputs(self) -> list[Tensor]:
        """The outputs, with a graph, of the forwards since the last call."""
        found = [leaf for output in self._outputs for _, leaf in tensor_leaves(output) if leaf.requires_grad]
        self._outputs.clear()
        return found

    def silenced(self) -> AbstractContextManager[None]:
        """Inside, a backward adds exactly 0 to every gradient, also where its graph yields NaN."""
        return silenced(self.leaves())


class Replicas(Wrapper):
    """Models under DistributedDataParallel: one copy a rank, gradients averaged.

    Args:
        modules: They reduce over one group.
    """

    is_aligned = False
    num_shards = 1

    def __init__(self, modules: Sequence[DistributedDataParallel]) -> None:
        super().__init__(modules)
        self._modules = modules
        self._held: ExitStack | None = None
        self.group = modules[0].process_group
        if any(module.process_group is not self.group for module in modules):
            raise UserError("the model's DistributedDataParallel modules reduce over unlike groups: give them one")
        self.divisor = float(dist.get_world_size(self.group))
        self.copies = [range(dist.get_world_size(self.group))]
        self._awaits_first_forward = False
        reference = weakref.ref(self)

        def notice_beginning(_module: nn.Module, _inputs: Any) -> None:
            wrapper = reference()
            if wrapper is not None:
                wrapper._awaits_first_forward = False

        for module in modules:
            self._keep(module.module.register_forward_pre_hook(notice_beginning))

    @property
    def awaits_first_forward(self) -> bool:
        """Whether DDP is about to broadcast buffers or the order of buckets, as in a window's first forward."""
        return self._awaits_first_forward

    @property
    def begins_synced(self) -> bool:
        """A static graph is learnt in the first backward of all; where that is held back, torch fails or never reduces.

        Source: https://github.com/pytorch/pytorch/pull/187732
        """
        return any(
            module.static_graph and not getattr(module, "_static_graph_delay_allreduce_enqueued", True)
            for module in self._modules
        )

    def watch(self, *, on: bool) -> None:
        """Begin or end noticing forwards."""
        super().watch(on=on)
        self._awaits_first_forward = on and any(
            module.will_sync_module_buffers()  # type: ignore[no-untyped-call]
            or not getattr(module, "_has_rebuilt_buckets", False)
            for module in self._modules
        )

    def hold(self) -> None:
        """Enter DDP's own ``no_sync``, which must be around forward and backward."""
        if self._held is None:
            self._held = ExitStack()
            for module in self._modules:
                self._held.enter_context(module.no_sync())

    def release(self) -> None:
        """Leave it."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def leaves(self) -> list[Tensor]:
        """The parameters that are reduced."""
        return [
            parameter
            for module in self._modules
            for name, parameter in module.module.named_parameters()
            if parameter.requires_grad and name not in module.parameters_to_ignore
        ]
