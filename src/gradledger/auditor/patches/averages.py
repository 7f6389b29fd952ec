"""Averages of the weights: torch's own, and the few operations that those written by hand are made of."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from gradledger.auditor.recording.recorder import Recorder

Maker = Callable[[Recorder, Any], Any]


def watch_averaged_model(recorder: Recorder, original: Any) -> Any:
    """``AveragedModel.update_parameters``."""
    local = recorder.local

    @functools.wraps(original)
    def update_parameters(self: Any, model: Any) -> Any:
        recorder.averages.advanced(model.parameters())
        with local.quietly():
            return original(self, model)

    return update_parameters


def watch_product(recorder: Recorder, original: Any) -> Any:
    """A tensor times a number, outside autograd."""
    averages, local = recorder.averages, recorder.local

    @functools.wraps(original)
    def product(self: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, other, *args, **kwargs)
        if type(other) is float and type(result) is torch.Tensor and not result.requires_grad and local.is_watched:
            averages.scaled(result, self, other)
        return result

    return product


def watch_sum(of_left: float, of_right: float) -> Maker:
    """A sum or difference of two tensors, outside autograd."""

    def make(recorder: Recorder, original: Any) -> Any:
        averages, local = recorder.averages, recorder.local

        @functools.wraps(original)
        def total(self: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, other, *args, **kwargs)
            if type(result) is torch.Tensor and not result.requires_grad and local.is_watched:
                averages.combined(result, self, other, of_left, of_right)
            return result

        return total

    return make


def watch_sum_in_place(sign: float) -> Maker:
    """``add_``, ``sub_`` and the augmented assignments."""

    def make(recorder: Recorder, original: Any) -> Any:
        averages, local = recorder.averages, recorder.local

        @functools.wraps(original)
        def total(self: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
            if type(other) is not float and self.grad_fn is None and local.is_watched:
                alpha = kwargs.get("alpha", 1.0)
                averages.combined(self, self, other, 1.0, sign * alpha)
            return original(self, other, *args, **kwargs)

        return total

    return make


def watch_lerp(recorder: Recorder, original: Any) -> Any:
    """``lerp`` as a method or a function."""
    averages, local = recorder.averages, recorder.local

    @functools.wraps(original)
    def lerp(start: Any, end: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(start, end, weight, *args, **kwargs)
        if type(weight) is float and type(result) is torch.Tensor and not result.requires_grad and local.is_watched:
            averages.combined(result, start, end, 1.0 - weight, weight)
        return result

    return lerp


def watch_lerp_in_place(recorder: Recorder, original: Any) -> Any:
    """``lerp_``."""
    averages, local = recorder.averages, recorder.local

    @functools.wraps(original)
    def lerp_(self: Any, end: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
        if type(weight) is float and local.is_watched:
            averages.combined(self, self, end, 1.0 - weight, weight)
        return original(self, end, weight, *args, **kwargs)

    return lerp_


def watch_foreach_sum(recorder: Recorder, original: Any) -> Any:
    """``torch._foreach_add_``."""
    averages, local = recorder.averages, recorder.local

    @functools.wraps(original)
    def total(tensors: Any, others: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(others, list | tuple) and local.is_watched:
            alpha = kwargs.get("alpha", 1.0)
            for tensor, other in zip(tensors, others, strict=False):
                averages.combined(tensor, tensor, other, 1.0, alpha)
        return original(tensors, others, *args, **kwargs)

    return total


def watch_foreach_lerp(recorder: Recorder, original: Any) -> Any:
    """``torch._foreach_lerp_``."""
    averages, local = recorder.averages, recorder.local

    @functools.wraps(original)
    def lerp_(tensors: Any, ends: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
        if type(weight) is float and local.is_watched:
            for tensor, end in zip(tensors, ends, strict=False):
                averages.combined(tensor, tensor, end, 1.0 - weight, weight)
        return original(tensors, ends, weight, *args, **kwargs)

    return lerp_
