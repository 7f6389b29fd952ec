"""Every place where the auditor stands between a program and torch, in one table, and the way to undo it all.

Each patched function calls the original with the same arguments and returns what it returns. Nothing touches a value,
a random number or the order of operations, so an audited program computes the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed
import torch.nn.utils
import torch.optim.lr_scheduler
import torch.optim.swa_utils
import torch.utils.data.dataloader
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from gradledger.auditor.patches import (
    averages,
    calls,
    clipping,
    gradients,
    loaders,
    optimizers,
    ranks,
    scaler,
    schedules,
)
from gradledger.auditor.recording.recorder import Recorder

_MISSING = object()
_SCALER = torch.amp.grad_scaler.GradScaler
_SCHEDULER = torch.optim.lr_scheduler.LRScheduler

TABLE: tuple[tuple[Any, str, Callable[[Recorder, Any], Any]], ...] = (
    (torch.autograd, "backward", calls.watch_backward),
    (torch.autograd, "grad", calls.watch_grad),
    (torch.optim.Optimizer, "__init__", optimizers.watch_init),
    (torch.optim.Optimizer, "zero_grad", optimizers.watch_optimizer_zero_grad),
    (torch.nn.Module, "zero_grad", optimizers.watch_module_zero_grad),
    (torch.nn.Module, "train", optimizers.watch_mode),
    (torch.Tensor, "grad", gradients.watch_grad_property),
    (torch.Tensor, "data", gradients.watch_data_property),
    (torch.Tensor, "zero_", gradients.watch_in_place("zero")),
    (torch.Tensor, "mul_", gradients.watch_in_place("scale")),
    (torch.Tensor, "div_", gradients.watch_in_place("scale", inverse=True)),
    (torch.Tensor, "__imul__", gradients.watch_in_place("scale")),
    (torch.Tensor, "__itruediv__", gradients.watch_in_place("scale", inverse=True)),
    (torch, "_foreach_zero_", gradients.watch_foreach("zero")),
    (torch, "_foreach_mul_", gradients.watch_foreach("scale")),
    (torch, "_foreach_div_", gradients.watch_foreach("scale", inverse=True)),
    (clip_grad, "_clip_grads_with_norm_", clipping.watch_by_norm),
    (torch.nn.utils, "clip_grads_with_norm_", clipping.watch_by_norm),
    (clip_grad, "clip_grad_value_", clipping.watch_by_value),
    (torch.nn.utils, "clip_grad_value_", clipping.watch_by_value),
    (_SCALER, "scale", scaler.watch_scale),
    (_SCALER, "unscale_", scaler.watch_unscale),
    (_SCALER, "step", scaler.watch_step),
    (_SCALER, "update", scaler.watch_update),
    (_SCHEDULER, "__init__", schedules.watch_init),
    (_SCHEDULER, "_initial_step", schedules.watch_first_step),
    (torch.optim.swa_utils.AveragedModel, "update_parameters", averages.watch_averaged_model),
    (torch.Tensor, "mul", averages.watch_product),
    (torch.Tensor, "__mul__", averages.watch_product),
    (torch.Tensor, "__rmul__", averages.watch_product),
    (torch.Tensor, "add", averages.watch_sum(1.0, 1.0)),
    (torch.Tensor, "__add__", averages.watch_sum(1.0, 1.0)),
    (torch.Tensor, "sub", averages.watch_sum(1.0, -1.0)),
    (torch.Tensor, "__sub__", averages.watch_sum(1.0, -1.0)),
    (torch.Tensor, "add_", averages.watch_sum_in_place(1.0)),
    (torch.Tensor, "__iadd__", averages.watch_sum_in_place(1.0)),
    (torch.Tensor, "sub_", averages.watch_sum_in_place(-1.0)),
    (torch.Tensor, "__isub__", averages.watch_sum_in_place(-1.0)),
    (torch.Tensor, "lerp", averages.watch_lerp),
    (torch, "lerp", averages.watch_lerp),
    (torch.Tensor, "lerp_", averages.watch_lerp_in_place),
    (torch, "_foreach_add_", averages.watch_foreach_sum),
    (torch, "_foreach_lerp_", averages.watch_foreach_lerp),
    (DistributedDataParallel, "_pre_forward", ranks.watch_ddp_pre_forward),
    (torch.distributed, "all_reduce", ranks.watch_all_reduce),
    (torch.utils.data.DataLoader, "__iter__", loaders.watch_iterate),
    (torch.utils.data.dataloader._BaseDataLoaderIter, "__next__", loaders.watch_advance),
)
"""Owner, attribute, maker of the replacement. Beside these: the ``step`` of every scheduler class, FSDP's
``post_backward`` once sharded parameters are met, and torch's global hooks before and after ``Optimizer.step``."""


class Patches:
    """Attributes set for the time of an audit.

    Args:
        recorder: Where the patched functions report to.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._undo: list[Callable[[], Any]] = []

    def apply(self) -> None:
        """Patch everything in the table."""
        for owner, name, make in TABLE:
            self._replace(owner, name, make)
        for kind in scheduler_classes():
            self._patch_scheduler(kind)
        self._recorder.schedules.on_class = self._patch_scheduler
        self._recorder.registry.on_sharded = self._patch_sharding
        begins = register_optimizer_step_pre_hook(self._recorder.steps.begins)
        ends = register_optimizer_step_post_hook(self._recorder.steps.ends)
        self._undo += [begins.remove, ends.remove]

    def undo(self) -> None:
        """Put everything back, last one first."""
        while self._undo:
            self._undo.pop()()

    def _replace(self, owner: Any, name: str, make: Callable[[Recorder, Any], Any]) -> None:
        """Set ``owner.name`` to ``make(recorder, original)`` until the end of the audit."""
        own = vars(owner).get(name, _MISSING)
        original = own if own is not _MISSING and not isinstance(own, staticmethod) else getattr(owner, name)
        setattr(owner, name, make(self._recorder, original))
        restore = (
            functools.partial(delattr, owner, name) if own is _MISSING else functools.partial(setattr, owner, name, own)
        )
        self._undo.append(restore)

    def _patch_sharding(self) -> None:
        """Sharded parameters were met, so FSDP is loaded (it is costly to import and rarely needed)."""
        from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup

        self._replace(FSDPParamGroup, "post_backward", ranks.watch_fsdp_post_backward)

    def _patch_scheduler(self, kind: type[Any]) -> None:
        """The ``step`` that a scheduler class defines, its bases' included."""
        for base in kind.__mro__:
            if "step" in vars(base) and not hasattr(vars(base)["step"], "_gradledger"):
                self._replace(base, "step", schedules.watch_step)


def scheduler_classes() -> Iterable[type[Any]]:
    """The scheduler classes that are loaded; one of the user's own may come later."""
    yield from _with_subclasses(_SCHEDULER)
    yield torch.optim.lr_scheduler.ReduceLROnPlateau


def _with_subclasses(kind: type[Any]) -> Iterable[type[Any]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from _with_subclasses(inner)
