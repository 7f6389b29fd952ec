"""Compiling the model's forward once, for full micro-batches and for the short ones of tails alike."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gradledger.engine.batches.nesting import tensor_leaves
from gradledger.errors import UserError

Compile = bool | Mapping[str, Any]
"""True, or the keyword arguments of :func:`torch.compile`."""


class Compiled:
    """A model whose calls are compiled, in place, for as long as the owner lives.

    A compiler that sees one size after another compiles twice, and once more for a micro-batch of one sample, which it
    takes for a case of its own. Here the number of samples is marked as free from the beginning, and a single sample
    that remains beside larger micro-batches runs as it is: there is one compilation.

    Args:
        model: Its calls are compiled; for a ``DistributedDataParallel`` those of the module inside.
        options: Keyword arguments of :func:`torch.compile`.
        owner: When it is gone, the model is as it was.

    Raises:
        UserError: The model is compiled already, sharded, or torch does not take the options.
    """

    def __init__(self, model: nn.Module, options: Mapping[str, Any], owner: object) -> None:
        inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        _check(inner)
        call = inner._call_impl

        def frame(*args: Any, **kwargs: Any) -> Any:
            return call(*args, **kwargs)  # a frame of its own: torch compiles none of torch.nn, such as a Sequential's

        try:
            compiled: Callable[..., Any] = torch.compile(frame, **options)
        except Exception as error:
            if not options:
                raise
            raise UserError(f"compile={dict(options)!r} is not what torch.compile takes: {error}") from None
        choice = _Choice(call, compiled)
        self._choice = choice
        self._has_seen_several = False
        inner._compiled_call_impl = choice  # where nn.Module.compile() has it
        weakref.finalize(owner, _restore, inner)

    def expect(self, micro_batch: Any) -> None:
        """The next calls are for this micro-batch; its dimension of samples is marked as free."""
        leaves = [leaf for _, leaf in tensor_leaves(micro_batch) if leaf.dim() > 0]
        num_samples = max((leaf.size(0) for leaf in leaves), default=0)
        self._has_seen_several = self._has_seen_several or num_samples > 1
        self._choice.is_plain = num_samples == 1 and self._has_seen_several
        for leaf in leaves:
            _mark(leaf)

    def expect_several(self) -> None:
        """Micro-batches of more than one sample will come."""
        self._has_seen_several = True

    def expect_nothing(self) -> None:
        """Calls are compiled again, whatever they are for."""
        self._choice.is_plain = False


class _Choice:
    """The call of a module: compiled, or plain."""

    def __init__(self, plain: Callable[..., Any], compiled: Callable[..., Any]) -> None:
        self._plain = plain
        self._compiled = compiled
        self.is_plain = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._plain(*args, **kwargs) if self.is_plain else self._compiled(*args, **kwargs)


def compiled_model(model: nn.Module, choice: Any, owner: object) -> Compiled | None:
    """The compiled model; None where it is not to be compiled.

    Raises:
        UserError: The choice is of the wrong type, or anything that :class:`Compiled` raises.
    """
    if choice is False or choice is None:
        return None
    if choice is not True and not isinstance(choice, Mapping):
        raise UserError(f"compile={choice!r}: give True, or a mapping of torch.compile's arguments")
    return Compiled(model, {} if choice is True else choice, owner)


def is_compiled(model: nn.Module) -> bool:
    """Whether calls of a model are compiled, by us or by the user."""
    dynamo = sys.modules.get("torch._dynamo")  # not imported for its own sake: that takes long
    return model._compiled_call_impl is not None or (dynamo is not None and isinstance(model, dynamo.OptimizedModule))


def uncompiled() -> AbstractContextManager[Any]:
    """Inside, nothing is compiled and what is compiled runs as it was written.

    A compiler that meets a frame under a dispatch mode gives the frame up for good, so it must not meet it.
    """
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _check(model: nn.Module) -> None:
    if is_compiled(model):
        raise UserError("compile= was given, but the model is compiled already: leave one of the two out")
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and any(isinstance(module, fsdp.FSDPModule) for module in model.modules()):
        raise UserError("compile= was given for a sharded model: compile its blocks before they are sharded instead")


def _mark(leaf: Tensor) -> None:
    if leaf.size(0) > 1:
        torch._dynamo.maybe_mark_dynamic(leaf, 0)


def _restore(model: nn.Module) -> None:
    model._compiled_call_impl = None
