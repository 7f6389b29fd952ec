"""Gradients that the program changes by hand: ``.grad``, ``.data`` and what empties or multiplies in place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from gradledger.auditor.recording.recorder import Recorder

Maker = Callable[[Recorder, Any], Any]


class _InPlaceOf(property):
    """Stands where a property of torch's own was, with what torch's compiler reads of that one when it is imported."""

    def __init__(self, original: Any, get: Any, put: Any) -> None:
        super().__init__(get, put, original.__delete__, original.__doc__)
        self.__name__, self.__objclass__ = original.__name__, original.__objclass__


def watch_grad_property(recorder: Recorder, original: Any) -> Any:
    """``p.grad = value``."""
    put = original.__set__

    def set_grad(self: Any, value: Any) -> None:
        if not recorder.local.quiet and id(self) in recorder.registry.owners:
            recorder.by_hand.note_set(self, value)
        put(self, value)

    return _InPlaceOf(original, original.__get__, set_grad)


def watch_data_property(recorder: Recorder, original: Any) -> Any:
    """``.data`` read (changes through it bump no version) or set."""
    get, put = original.__get__, original.__set__

    def get_data(self: Any) -> Any:
        alias = get(self)
        if id(self) in recorder.registry.owners or id(self) in recorder.registry.gradients:
            recorder.by_hand.note_alias(self, alias)
        return alias

    def set_data(self: Any, value: Any) -> None:
        put(self, value)
        if id(self) in recorder.registry.owners:
            recorder.by_hand.note_weights(self)

    return _InPlaceOf(original, get_data, set_data)


def watch_in_place(kind: str, *, inverse: bool = False) -> Maker:
    """A method of a tensor that empties or multiplies it in place."""

    def make(recorder: Recorder, original: Any) -> Any:
        gradients, aliases, local = recorder.registry.gradients, recorder.registry.aliases, recorder.local

        @functools.wraps(original)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            if local.is_watched:
                factor = _number(args, inverse) if kind == "scale" else None
                # The identity may be that of a gradient which is gone.
                may_be_gradient = id(self) in gradients or id(self) in aliases
                is_gradient = may_be_gradient and recorder.by_hand.note_change(self, kind, factor)
                if not is_gradient and factor is not None and self.grad_fn is None:
                    recorder.averages.scaled(self, self, factor)
            return original(self, *args, **kwargs)

        return method

    return make


def watch_foreach(kind: str, *, inverse: bool = False) -> Maker:
    """A function over lists of tensors that empties or multiplies them in place."""

    def make(recorder: Recorder, original: Any) -> Any:
        local = recorder.local

        @functools.wraps(original)
        def function(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if local.is_watched:
                factor = _number(args, inverse) if kind == "scale" else None
                for tensor in tensors:
                    recorder.by_hand.note_change(tensor, kind, factor)
                    if factor is not None:
                        recorder.averages.scaled(tensor, tensor, factor)
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
