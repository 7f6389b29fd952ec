"""Activation checkpointing: blocks of the model keep their inputs only, and are run again in the backward.

The work is done by :func:`torch.utils.checkpoint.checkpoint`, which restores random numbers (dropout) and autocast.
What it leaves to its caller is done here: buffers (the running statistics of BatchNorm, the vectors of a spectral norm)
are for the second run as they were for the first, and after it as if there had been none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, partial
from types import new_class
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from gradledger.errors import UserError

CheckpointingChoice = bool | Sequence[nn.Module] | Callable[[nn.Module], bool]
"""Which modules are run again in the backward: True finds the model's repeated blocks; a list of modules; or a callable
that says whether a module is one."""

_MOST_KEPT = 2**16
"""Buffers with more elements (masks, tables) are not copied before each forward; they must not change in it."""

_FEWEST_LAYERS = 4
"""A Sequential of fewer layers is not worth being cut into segments."""


class Checkpointing:
    """Runs chosen modules of a model under activation checkpointing, while it is switched on.

    Args:
        model: The model.
        choice: Which of its modules.
        uncounted: Makes the context that second runs are in, for whoever counts forwards.

    Raises:
        UserError: The choice names no module, or one that cannot be run again.

    Attributes:
        modules: The chosen ones.
        names: Their places in the model.

    Example:
        >>> import torch
        >>> block = lambda: torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
        >>> model = torch.nn.Sequential(block(), block(), torch.nn.Linear(4, 1))
        >>> len(Checkpointing(model, True).modules)
        2
    """

    def __init__(
        self,
        model: nn.Module,
        choice: CheckpointingChoice,
        uncounted: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.modules = chosen_modules(model, choice)
        names = {module: name for name, module in model.named_modules()}
        self.names = [names[module] for module in self.modules]
        self._uncounted = uncounted
        in_segments = choice is True
        kinds: list[Any] = [type(module) for module in self.modules]
        self._kinds = [
            (module, kind, _checkpointed(kind, in_segments)) for module, kind in zip(self.modules, kinds, strict=True)
        ]

    def begin(self) -> None:
        """From here on, the modules' forwards are checkpointed."""
        for module, _, checkpointed in self._kinds:
            module.__class__ = checkpointed
            _uncounted_in[module] = self._uncounted

    def end(self) -> None:
        """The modules are as they were."""
        for module, kind, _ in self._kinds:
            module.__class__ = kind
            _uncounted_in.pop(module, None)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Switched on, for a while."""
        self.begin()
        try:
            yield
        finally:
            self.end()


_uncounted_in: dict[nn.Module, Callable[[], AbstractContextManager[None]]] = {}


class _Block(nn.Module):
    """Mixed into the class of a module: its forward is run again in the backward."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _run(self, super().forward, args, kwargs)


class _Segments(nn.Module):
    """The same for a Sequential of many small layers, by segments; the last one's activations are needed at once."""

    def forward(self, value: Any) -> Any:
        layers = list(self.children())
        length = math.ceil(len(layers) / round(math.sqrt(len(layers))))
        for start in range(0, len(layers), length):
            segment = partial(_in_turn, layers[start : start + length])
            value = _run(self, segment, (value,), {}) if start + length < len(layers) else segment(value)
        return value


def _in_turn(layers: Sequence[nn.Module], value: Any) -> Any:
    for layer in layers:
        value = layer(value)
    return value


@lru_cache
def _checkpointed(kind: Any, in_segments: bool) -> Any:
    """A class like ``kind``, whose forward is checkpointed."""
    mixin = _Segments if in_segments and kind is nn.Sequential else _Block
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return new_class(kind.__name__, (mixin, kind), exec_body=lambda namespace: namespace.update(names))


def _run(module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    if torch.compiler.is_compiling():  # a compiled graph changes buffers once, whatever it computes again
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    buffers = _Buffers(module)
    if buffers.are_there:
        forward = _Rerun(forward, buffers, _uncounted_in.get(module, nullcontext))
    leaves, structure = tree_flatten((args, kwargs))
    places = [at for at, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    others = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    def function(*tensors: Tensor) -> Any:
        filled = list(others)
        for at, tensor in zip(places, tensors, strict=True):
            filled[at] = tensor
        again, named = tree_unflatten(filled, structure)
        return forward(*again, **named)

    return checkpoint(function, *[leaves[at] for at in places], use_reentrant=False)


class _Rerun:
    """A forward whose later calls find the buffers of the first one, and leave none of their own."""

    def __init__(
        self,
        forward: Callable[..., Any],
        buffers: _Buffers,
        uncounted: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._forward = forward
        self._buffers = buffers
        self._uncounted = uncounted
        self._is_first = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_first:
            self._is_first = False
            outputs = self._forward(*args, **kwargs)
            self._buffers.check()
            return outputs
        with self._uncounted(), self._buffers.lent():
            return self._forward(*args, **kwargs)


class _Buffers:
    """The buffers of a module and its parts that a forward may change, as they are now."""

    def __init__(self, module: nn.Module) -> None:
        self._kept: list[tuple[nn.Module, str, Tensor]] = []
        self._large: list[tuple[nn.Module, str, Tensor, int]] = []
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._NormBase) and not part.training:
                continue
            for name, buffer in part._buffers.items():
                if buffer is None:
                    continue
                if buffer.numel() <= _MOST_KEPT:
                    self._kept.append((part, name, buffer.detach().clone()))
                else:
                    self._large.append((part, name, buffer, buffer._version))

    @property
    def are_there(self) -> bool:
        return bool(self._kept or self._large)

    def check(self) -> None:
        """Notice a large buffer that the forward changed after all."""
        for part, name, buffer, version in self._large:
            if part._buffers.get(name) is buffer and buffer._version != version:
                raise UserError(
                    f"the forward of a {type(part).__name__} changes its buffer {name!r} of {buffer.numel()} elements, "
                    "too many to keep a copy for a second forward: leave the module that it is in out of checkpointing="
                )

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Inside, the module has copies of the kept buffers; afterwards it has those from before."""
        places = [(part, name) for part, name, _ in self._kept] + [(part, name) for part, name, *_ in self._large]
        present = [(part, name, part._buffers[name]) for part, name in places]
        for part, name, value in self._kept:
            part._buffers[name] = value.clone()
        for part, name, value, _ in self._large:
            part._buffers[name] = value
        try:
            yield
        finally:
            for part, name, buffer in present:
                part._buffers[name] = buffer


def chosen_modules(model: nn.Module, choice: CheckpointingChoice) -> list[nn.Module]:
    """The modules that a choice means.

    Raises:
        UserError: There is none, or one cannot be run again.
    """
    if choice is True:
        modules = repeated_blocks(model) or _long_sequences(model)
        if not modules:
            raise UserError(
                "checkpointing=True found no blocks in the model (modules with parts of their own in a ModuleList or "
                "Sequential, or a Sequential of at least "
                f"{_FEWEST_LAYERS} layers): give the modules to run again in the backward, checkpointing=[...]"
            )
    elif callable(choice) and not isinstance(choice, nn.Module):
        modules = [module for module in model.modules() if choice(module)]
    elif isinstance(choice, Sequence) and all(isinstance(module, nn.Module) for module in choice):
        modules = list(dict.fromkeys(choice))
    else:
        raise UserError(
            f"checkpointing={choice!r}: give True, the modules to run again in the backward, or a callable that says "
            "whether a module is one"
        )
    if not modules:
        raise UserError("checkpointing= chooses no module of the model: choose at least one, or leave it out")
    names = {module: name for name, module in model.named_modules()}
    for module in modules:
        _check(names.get(module), module)
    return modules


def _check(name: str | None, module: nn.Module) -> None:
    kind = type(module).__name__
    if name is None:
        raise UserError(f"checkpointing= names a {kind} that is no part of the model")
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        raise UserError(f"checkpointing= names {name!r}, a {kind}, which has no forward: name the modules in it")
    if "forward" in module.__dict__ or isinstance(module, torch.jit.ScriptModule):
        raise UserError(
            f"checkpointing= names {name!r}, a {kind} whose forward is a script or was replaced on the module itself, "
            "so it cannot be run again from here: leave it out"
        )


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks that a model is made of: modules with parts of their own that stand in a ModuleList or Sequential.

    Of blocks in blocks the inner ones, where they hold more than half of the outer one's parameters (the blocks of a
    stage, but not the parts of a transformer's layer).
    """
    blocks: dict[nn.Module, None] = {}
    for child in model.children():
        inner = repeated_blocks(child)
        is_block = isinstance(model, nn.ModuleList | nn.Sequential) and any(True for _ in child.children())
        has_forward = not isinstance(child, nn.ModuleList | nn.ModuleDict)
        if is_block and has_forward and 2 * sum(map(_num_parameters, inner)) <= _num_parameters(child):
            blocks[child] = None
        else:
            blocks.update(dict.fromkeys(inner))
    return list(blocks)


def _long_sequences(model: nn.Module) -> list[nn.Module]:
    return [each for each in model.modules() if type(each) is nn.Sequential and len(each) >= _FEWEST_LAYERS]


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
