"""Every place where the auditor stands between a program and torch, in one table, and the way to undo it all.

Each patched function calls the original with the same arguments and returns what it returns. Nothing touches a value,
a random number or the order of operations, so an audited program computes the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import nullcontext
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

from gradledger.auditor.locations import user_location
from gradledger.auditor.loss_graph import SCALER_MARK
from gradledger.auditor.recorder import Recorder
from gradledger.ledger import Clip

_MISSING = object()


class Patches:
    """Attributes set for the time of an audit.

    Args:
        recorder: Where the patched functions report to.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._undo: list[Callable[[], Any]] = []

    def apply(self) -> None:
        """Patch everything in the table."""
        recorder = self.recorder
        for owner, name, make in _TABLE:
            self.replace(owner, name, make)
        for kind in _with_subclasses(torch.optim.lr_scheduler.LRScheduler):
            self._patch_scheduler(kind)
        self._patch_scheduler(torch.optim.lr_scheduler.ReduceLROnPlateau)
        self.replace(torch.Tensor, "grad", _grad_property)
        self.replace(torch.Tensor, "data", _data_property)
        recorder.on_sharded = self._patch_sharding
        begins = register_optimizer_step_pre_hook(recorder.step_begins)
        ends = register_optimizer_step_post_hook(recorder.step_ends)
        self._undo += [begins.remove, ends.remove]

    def undo(self) -> None:
        """Put everything back, last one first."""
        while self._undo:
            self._undo.pop()()

    def replace(self, owner: Any, name: str, make: Callable[[Patches, Any], Any]) -> None:
        """Set ``owner.name`` to ``make(patches, original)`` until the end of the audit."""
        own = vars(owner).get(name, _MISSING)
        original = own if own is not _MISSING and not isinstance(own, staticmethod) else getattr(owner, name)
        setattr(owner, name, make(self, original))
        restore = (
            functools.partial(delattr, owner, name) if own is _MISSING else functools.partial(setattr, owner, name, own)
        )
        self._undo.append(restore)

    def _patch_sharding(self) -> None:
        """Sharded parameters were met, so FSDP is loaded (it is costly to import and rarely needed)."""
        from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup

        self.replace(FSDPParamGroup, "post_backward", _fsdp_post_backward)

    def _patch_scheduler(self, kind: type[Any]) -> None:
        if "step" in vars(kind) and not hasattr(vars(kind)["step"], "_gradledger"):
            self.replace(kind, "step", _scheduler_step)

    def patch_scheduler_class(self, kind: type[Any]) -> None:
        """A scheduler class of the user's own is met for the first time."""
        for base in kind.__mro__:
            self._patch_scheduler(base)


def _with_subclasses(kind: type[Any]) -> Iterable[type[Any]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from _with_subclasses(inner)


# Each maker takes the patches and the original and returns the replacement.


def _autograd_backward(patches: Patches, original: Any) -> Any:
    recorder = patches.recorder

    @functools.wraps(original)
    def backward(
        tensors: Any,
        grad_tensors: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        losses = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
        gradient = grad_tensors
        if isinstance(grad_tensors, list | tuple):
            gradient = grad_tensors[0] if len(grad_tensors) == 1 else None
        with recorder.backward(losses, gradient, retained=bool(retain_graph) and not create_graph):
            return original(losses, grad_tensors, retain_graph, create_graph, *args, **kwargs)

    return backward


def _autograd_grad(patches: Patches, original: Any) -> Any:
    recorder = patches.recorder

    @functools.wraps(original)
    def grad(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.graph_reused([outputs] if isinstance(outputs, torch.Tensor) else list(outputs))
        return original(outputs, *args, **kwargs)

    return grad


def _optimizer_init(patches: Patches, original: Any) -> Any:
    recorder = patches.recorder

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        recorder.account_of(self)

    return init


def _optimizer_zero_grad(patches: Patches, original: Any) -> Any:
    recorder = patches.recorder

    @functools.wraps(original)
    def zero_grad(self: Any, *args: Any, **kwargs: Any) -> None:
        recorder.account_of(self)
        parameters = [p for group in self.param_groups for p in group["params"]]
        with recorder.zeroing(parameters):
            original(self, *args, **kwargs)

    return zero_grad


def _module_zero_grad(patches: Patches, original: Any) -> Any:
    recorder = patches.recorder

    @functools.wraps(original)
    def zero_grad(self: Any, *args: Any, **kwargs: Any) -> None:
        with recorder.zeroing(self.parameters()):
            original(self, *args, **kwargs)

    return zero_grad


def _grad_property(patches: Patches, original: Any) -> Any:
    recorder, put = patches.recorder, original.__set__

    def set_grad(self: Any, value: Any) -> None:
        if not recorder.local.quiet and id(self) in recorder.owners:
            recorder.note_set(self, value)
        put(self, value)

    return property(original.__get__, set_grad, original.__delete__, original.__doc__)


def _data_property(patches: Patches, original: Any) -> Any:
    recorder, get, put = patches.recorder, original.__get__, original.__set__

    def get_data(self: Any) -> Any:
        alias = get(self)
        if id(self) in recorder.owners or id(self) in recorder.gradients:
            recorder.note_alias(self, alias)
        return alias

    def set_data(self: Any, value: Any) -> None:
        if id(self) in recorder.owners:
            recorder.note_weights(self)
        put(self, value)

    return property(get_data, set_data, original.__delete__, original.__doc__)


def _in_place(kind: str, *, inverse: bool = False) -> Callable[[Patches, Any], Any]:
    """A method of a tensor that empties or multiplies it in place."""

    def make(patches: Patches, original: Any) -> Any:
        recorder = patches.recorder
        gradients, aliases, local = recorder.gradients, recorder.aliases, recorder.local

        @functools.wraps(original)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not local.quiet and not local.steps and (id(self) in gradients or id(self) in aliases):
                recorder.note_change(self, kind, _number(args, inverse) if kind == "scale" else None)
            return original(self, *args, **kwargs)

        return method

    return make


def _foreach(kind: str, *, inverse: bool = False) -> Callable[[Patches, Any], Any]:
    """A function over lists of tensors that empties or multiplies them in place."""

    def make(patches: Patches, original: Any) -> Any:
        recorder = patches.recorder
        local = recorder.local

        @functools.wraps(original)
        def function(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if not local.quiet and not local.steps:
                factor = _number(args, inverse) if kind == "scale" else None
                for tensor in tensors:
                    recorder.note_change(tensor, kind, factor)
            return original(tensors, *args, **kwargs)

        return function

    return make


def _number(args: tuple[Any, ...], inverse: bool) -> float | None:
    """The factor that an in-place operation multiplies by, where it is a number that can be read without waiting."""
    value = args[0] if args else None
    if isinstance(value, torch.Tensor):
        value = value.item() if value.numel() == 1 and value.device.type == "cpu" else None
    if not isinstance(value, int | float) or (inverse and value == 0):
        return None
    return 1 / value if inverse else float(value)


def _clip_with_norm(patches: Patches, original: Any) -> Any:
    recorder = patches.recorder

    @functools.wraps(original)
    def clip(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
        parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        limit = float(max_norm) if isinstance(max_norm, int | float) else None
        with recorder.clipping(parameters, Clip(by="norm", limit=limit)):
            return original(parameters, max_norm, *args, **kwargs)

    return clip


def _clip_value(patches: Patches, original: Any) -> Any:
    recorder = patches.recorder

    @functools.wraps(original)
    def clip(parameters: Any, clip_value: float, *args: Any, **kwargs: Any) -> Any:
        parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        with recorder.clipping(parameters, Clip(by="value", limit=float(clip_value))):
            return original(parameters, clip_value, *args, **kwargs)

    return clip


def _scaler_scale(patches: Patches, original: Any) -> Any:
    recorder = patches.recorder

    @functools.wraps(original)
    def scale(self: Any, outputs: Any) -> Any:
        result = original(self, outputs)
        if self._enabled:
            recorder.scaler_used = True
            for tensor in [result] if isinstance(result, torch.Tensor) else result:
                node: Any = getattr(tensor, "grad_fn", None)
                if node is not None:
                    node.metadata[SCALER_MARK] = True
        return result

    return scale


def _scaler_unscale(patches: Patches, original: Any) -> Any:
    recorder = patches.recorder

    @functools.wraps(original)
    def unscale_(self: Any, optimizer: Any) -> None:
        with recorder.unscaling(self, optimizer) if self._enabled else nullcontext():
            original(self, optimizer)

    return unscale_


def _scaler_step(patches: Patches, original: Any) -> Any:
    recorder = patches.recorder

    @functools.wraps(original)
    def step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._enabled:
            return original(self, optimizer, *args, **kwargs)
        with recorder.scaler_step(self, optimizer):
            return original(self, optimizer, *args, **kwargs)

    return step


def _scaler_update(patches: Patches, original: Any) -> Any:
    recorder = patches.recorder

    @functools.wraps(original)
    def update(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self._enabled:
            recorder.scaler_updated(self)

    return update


def _scheduler_init(patches: Patches, original: Any) -> Any:
    recorder = patches.recorder

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        recorder.schedulers[self] = user_location()
        patches.patch_scheduler_class(type(self))
        original(self, *args, **kwargs)

    return init


def _scheduler_first_step(patches: Patches, original: Any) -> Any:
    """A new scheduler calls its own ``step`` once: nothing has advanced."""
    local = patches.recorder.local

    @functools.wraps(original)
    def _initial_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        local.scheduler_depth += 1
        try:
            return original(self, *args, **kwargs)
        finally:
            local.scheduler_depth -= 1

    return _initial_step


def _scheduler_step(patches: Patches, original: Any) -> Any:
    recorder = patches.recorder
    local = recorder.local

    @functools.wraps(original)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        local.scheduler_depth += 1
        try:
            result = original(self, *args, **kwargs)
        finally:
            local.scheduler_depth -= 1
        if not local.scheduler_depth:
            recorder.scheduled(self)
        return result

    step._gradledger = True  # type: ignore[attr-defined]
    return step


def _average_update(patches: Patches, original: Any) -> Any:
    recorder = patches.recorder

    @functools.wraps(original)
    def update_parameters(self: Any, model: Any) -> Any:
        recorder.averaged(model.parameters())
        return original(self, model)

    return update_parameters


def _ddp_pre_forward(patches: Patches, original: Any) -> Any:
    """Whether a backward reduces is settled by the forward: ``no_sync`` around the backward alone does nothing."""
    recorder = patches.recorder

    @functools.wraps(original)
    def _pre_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            known = recorder.synced_modules.get(self)
            parameters = known[1] if known else frozenset(id(p) for p in self.parameters())
            recorder.synced_modules[self] = (bool(self.require_backward_grad_sync), parameters)
        return original(self, *args, **kwargs)

    return _pre_forward


def _fsdp_post_backward(patches: Patches, original: Any) -> Any:
    recorder = patches.recorder

    @functools.wraps(original)
    def post_backward(self: Any, *args: Any, **kwargs: Any) -> Any:
        parameters = [
            each.sharded_param
            for each in self.fsdp_params
            if each.unsharded_accumulated_grad is not None or each._unsharded_param.grad is not None
        ]
        recorder.shard_group_done(parameters, bool(self.reduce_grads))
        return original(self, *args, **kwargs)

    return post_backward


def _all_reduce(patches: Patches, original: Any) -> Any:
    recorder = patches.recorder

    @functools.wraps(original)
    def all_reduce(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.reduced(tensor)
        return original(tensor, *args, **kwargs)

    return all_reduce


def _loader_iter(patches: Patches, original: Any) -> Any:
    epochs = patches.recorder.epochs

    @functools.wraps(original)
    def iterate(self: Any) -> Any:
        iterator = original(self)
        iterator._gradledger_pass = epochs.open_pass(self)  # a persistent iterator serves one pass after the other
        return iterator

    return iterate


def _loader_next(patches: Patches, original: Any) -> Any:
    epochs = patches.recorder.epochs

    @functools.wraps(original)
    def advance(self: Any) -> Any:
        loader_pass = getattr(self, "_gradledger_pass", None)
        if loader_pass is None:
            return original(self)
        try:
            batch = original(self)
        except StopIteration:
            epochs.exhausted(loader_pass)
            raise
        epochs.fetch(loader_pass)
        return batch

    return advance


_SCALER = torch.amp.grad_scaler.GradScaler
_TABLE: tuple[tuple[Any, str, Callable[[Patches, Any], Any]], ...] = (
    (torch.autograd, "backward", _autograd_backward),
    (torch.autograd, "grad", _autograd_grad),
    (torch.optim.Optimizer, "__init__", _optimizer_init),
    (torch.optim.Optimizer, "zero_grad", _optimizer_zero_grad),
    (torch.nn.Module, "zero_grad", _module_zero_grad),
    (torch.Tensor, "zero_", _in_place("zero")),
    (torch.Tensor, "mul_", _in_place("scale")),
    (torch.Tensor, "div_", _in_place("scale", inverse=True)),
    (torch.Tensor, "__imul__", _in_place("scale")),
    (torch.Tensor, "__itruediv__", _in_place("scale", inverse=True)),
    (torch, "_foreach_zero_", _foreach("zero")),
    (torch, "_foreach_mul_", _foreach("scale")),
    (torch, "_foreach_div_", _foreach("scale", inverse=True)),
    (clip_grad, "_clip_grads_with_norm_", _clip_with_norm),
    (torch.nn.utils, "clip_grads_with_norm_", _clip_with_norm),
    (clip_grad, "clip_grad_value_", _clip_value),
    (torch.nn.utils, "clip_grad_value_", _clip_value),
    (_SCALER, "scale", _scaler_scale),
    (_SCALER, "unscale_", _scaler_unscale),
    (_SCALER, "step", _scaler_step),
    (_SCALER, "update", _scaler_update),
    (torch.optim.lr_scheduler.LRScheduler, "__init__", _scheduler_init),
    (torch.optim.lr_scheduler.LRScheduler, "_initial_step", _scheduler_first_step),
    (torch.optim.swa_utils.AveragedModel, "update_parameters", _average_update),
    (DistributedDataParallel, "_pre_forward", _ddp_pre_forward),
    (torch.distributed, "all_reduce", _all_reduce),
    (torch.utils.data.DataLoader, "__iter__", _loader_iter),
    (torch.utils.data.dataloader._BaseDataLoaderIter, "__next__", _loader_next),
)
"""Owner, attribute, maker. Beside these: ``Tensor.grad`` and ``Tensor.data`` (as properties that read through to the
originals), the ``step`` of every scheduler class, FSDP's ``post_backward`` once sharded parameters are met, and torch's
global hooks before and after ``Optimizer.step``."""
