"""Backward calls, and ``autograd.grad`` through a kept graph."""

from __future__ import annotations

import functools
from typing import Any

import torch

from gradledger.auditor.recording.recorder import Recorder


def watch_backward(recorder: Recorder, original: Any) -> Any:
    """Every backward: ``Tensor.backward`` ends here too."""

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
        with recorder.backwards.around(losses, gradient, retained=bool(retain_graph) and not create_graph):
            return original(losses, grad_tensors, retain_graph, create_graph, *args, **kwargs)

    return backward


def watch_grad(recorder: Recorder, original: Any) -> Any:
    """``autograd.grad`` may go through a graph that a backward kept."""

    @functools.wraps(original)
    def grad(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.backwards.retained.reused_by_grad([outputs] if isinstance(outputs, torch.Tensor) else list(outputs))
        return original(outputs, *args, **kwargs)

    return grad
