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
    must_renew = False
    """A prepared reduction was abandoned, so that all ranks must prepare anew at the next window's start."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._outputs: list[Any] = []
        self._is_watching = False
        reference = weakref.ref(self)

        def notice(_module: nn.Module, _inputs: Any, output: Any) -> None:
            wrapper = reference()
            if wrapper is not None and wrapper._is_watching and torch.is_grad_enabled():
                wrapper._notice(output)

        for module in modules:
            self._keep(module.register_forward_hook(notice))

    def _keep(self, handle: RemovableHandle) -> None:
        """Remove a hook when the wrapper is forgotten."""
        weakref.finalize(self, handle.remove)

    @property
    def begins_synced(self) -> bool:
        """The first micro-batch of all must reduce, so that the wrapper learns the graph."""
        return False

    def _notice(self, output: Any) -> None:
        """A forward has ended."""
        self._outputs.append(output)

    def begin_window(self, *, renew: bool) -> None:
        """Do what a window's first forward would exchange, while all ranks are at the same place.

        Args:
            renew: Some rank abandoned a reduction that it was prepared for.
        """

    def end_window(self) -> None:
        """Be again as the wrapper is outside of windows."""
        self.release()

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
        """Forget the gradients that were held back, and the reduction that was prepared for."""

    def has_reduced(self) -> None:
        """The backward that was to reduce is done."""

    def measurable(self, model: nn.Module) -> nn.Module | None:
        """What may run forwards and backwards on one rank alone; None where nothing may."""
        return None

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
        self._is_prepared = False

    @property
    def begins_synced(self) -> bool:
        """A static graph is learnt in the first backward of all; where that is held back, torch fails or never reduces.

        Source: https://github.com/pytorch/pytorch/pull/187732
        """
        return any(
            module.static_graph and not getattr(module, "_static_graph_delay_allreduce_enqueued", True)
            for module in self._modules
        )

    def _notice(self, output: Any) -> None:
        super()._notice(output)
        self._is_prepared = self._held is None

    def begin_window(self, *, renew: bool) -> None:
        """Let all ranks have rank 0's buffers, and the buckets be rebuilt, as DDP does in its first forwards."""
        self.must_renew = False
        for module in self._modules:
            if renew:
                module.reducer._reset_state()
            module.reducer._rebuild_buckets()
            if _gives_buffers(module) and module.modules_buffers:
                module._sync_buffers()  # type: ignore[no-untyped-call]

    def end_window(self) -> None:
        """Let the next forward, as of an evaluation, begin with rank 0's buffers."""
        super().end_window()
        for module in self._modules:
            module.require_forward_param_sync = True

    def hold(self) -> None:
        """Enter DDP's own ``no_sync``, which must be around forward and backward."""
        self._keep_buffers()
        if self._held is None:
            self._held = ExitStack()
            for module in self._modules:
                self._held.enter_context(module.no_sync())

    def release(self) -> None:
        """Leave it."""
        self._keep_buffers()
        if self._held is not None:
            self._held.close()
            self._held = None

    def _keep_buffers(self) -> None:
        """Exchange none in the next forward: ranks may have unlike numbers of them."""
        for module in self._modules:
            module.require_forward_param_sync = False

    def abandon(self) -> None:
        """After a forward that was to reduce, expect no backward: the next held one would be taken for it.

        DDP's reducer then plans its buckets anew, for which it needs all ranks.
        """
        if self._is_prepared:
            self._is_prepared = False
            self.must_renew = True
            for module in self._modules:
                module.reducer._reset_state()

    def has_reduced(self) -> None:
        """DDP expects no backward any longer."""
        self._is_prepared = False

    def measurable(self, model: nn.Module) -> nn.Module | None:
        """The module inside, where the model is a wrapper itself, and no backward before the first is counted."""
        return model.module if isinstance(model, DistributedDataParallel) and not model.static_graph else None

    def leaves(self) -> list[Tensor]:
        """The parameters that are reduced."""
        return [
            parameter
            for module in self._modules
            for name, parameter in module.module.named_parameters()
            if parameter.requires_grad and name not in module.parameters_to_ignore
        ]


def _gives_buffers(module: DistributedDataParallel) -> bool:
    """Whether its forwards begin with rank 0's buffers; torch calls it ``broadcast_buffers`` before 2.13."""
    choice = getattr(module, "forward_sync_buffers", None)
    return bool(module.broadcast_buffers if choice is None else choice)
