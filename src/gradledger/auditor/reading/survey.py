"""A walk over a whole autograd graph, made for the first few backward passes of a line only."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from gradledger.auditor.reading.saved import saved

_MAX_NODES = 20_000
_INPUT_OF = {
    "AddmmBackward0": "mat1",
    "ConvolutionBackward0": "input",
    "EmbeddingBackward0": "indices",
    "LinearBackward0": "input",
    "MmBackward0": "self",
}
"""Where layers keep what they were fed with."""
_JOINS = ("CatBackward", "StackBackward")
_WRITES = (
    "torch::autograd::CopySlices", "IndexCopyBackward", "IndexPutBackward", "SelectScatterBackward",
    "SliceScatterBackward",
)  # fmt: skip
RETAINED_MARK = "gradledger.retained"
"""Key in a node's metadata: the number of the backward call that kept this graph."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a graph leads to.

    Args:
        parameters: Identities of the parameters that would receive a gradient, those with hooks of their own left out.
        batch_norm: Batch normalisation in training mode is part of it.
        inputs: The data that its layers were fed with: a tensor, held weakly, and which part of it.
        num_rows: The most samples that any layer was fed with from outside the graph; 0 where none was seen.
        joins_cache: Rows of the graph were joined with rows from outside it: features that were computed beforehand.
        fills_cache: Rows of the graph were written into a tensor from outside it.
    """

    parameters: frozenset[int]
    batch_norm: bool
    inputs: tuple[tuple[weakref.ref[Any], int, int], ...]
    num_rows: int = 0
    joins_cache: bool = False
    fills_cache: bool = False

    def same_data_as(self, other: Survey) -> bool:
        """Both were fed with the same tensors, all of them: two terms of one micro-batch."""
        own, others = self._living(), other._living()
        return bool(own) and own == others and len(own) == len(self.inputs) == len(other.inputs)

    def _living(self) -> set[tuple[int, int, int]]:
        return {(id(whole), start, size) for ref, start, size in self.inputs if (whole := ref()) is not None}


def survey(roots: list[Any]) -> Survey | None:
    """Walk the graph; None where it is too large."""
    parameters: set[int] = set()
    batch_norm = False
    inputs: dict[Any, tuple[weakref.ref[Any], int, int]] = {}
    rows: Counter[int | None] = Counter()
    joins_cache = False
    writes: list[Any] = []
    for number, node in enumerate(nodes(roots)):
        if number > _MAX_NODES:
            return None
        name = node.name()
        if name.endswith("AccumulateGrad"):
            if isinstance(node.variable, torch.nn.Parameter) and not _is_hooked(node.variable):
                parameters.add(id(node.variable))
        elif "BatchNorm" in name:
            batch_norm = batch_norm or bool(getattr(node, "_saved_training", False))
        elif name.startswith(_JOINS):
            joins_cache = joins_cache or (node._saved_dim == 0 and _is_partly_outside(node))
        elif name.startswith(_WRITES):
            writes.append(node)
        elif name in _INPUT_OF:
            tensor = saved(node, _INPUT_OF[name])
            if tensor is not None and not tensor.requires_grad:
                whole = tensor if tensor._base is None else tensor._base
                part = tensor.storage_offset(), tensor.numel()
                rows[_parameter_of(node)] += len(tensor) if tensor.dim() else 1
                inputs[id(whole), *part] = (weakref.ref(whole), *part)
    return Survey(
        frozenset(parameters), batch_norm, tuple(inputs.values()), max(rows.values(), default=0), joins_cache,
        _fills_cache(writes),
    )  # fmt: skip


def _is_hooked(parameter: Any) -> bool:
    """A hook looks at its gradient: it may be used without an optimizer."""
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def _is_partly_outside(node: Any) -> bool:
    """Some of what a node works on needs no gradient, and some does."""
    return len({path is None for path, _ in node.next_functions}) == 2


def _fills_cache(writes: list[Any]) -> bool:
    """A tensor from outside was written to once: one that is written to again and again is a buffer for outputs."""
    written = {node.next_functions[0][0] for node in writes}
    return any(node.next_functions[0][0] is None and node not in written for node in writes)


def _parameter_of(layer: Any) -> int | None:
    """The identity of the parameter that a layer's node leads to: two calls of one layer have the same."""
    for node in nodes([path for path, _ in layer.next_functions]):
        if node.name().endswith("AccumulateGrad"):
            return id(node.variable)
    return None


def mark_retained(roots: list[Any], call: int) -> None:
    """Leave the call's number on the nodes of a graph that is kept."""
    for number, node in enumerate(nodes(roots)):
        if number > _MAX_NODES:
            return
        node.metadata.setdefault(RETAINED_MARK, call)


def retained_call(roots: list[Any]) -> int | None:
    """The earlier call whose kept graph this one goes through, if any."""
    for number, node in enumerate(nodes(roots)):
        if number > _MAX_NODES:
            return None
        call = node.metadata.get(RETAINED_MARK)
        if call is not None and not node.name().endswith("AccumulateGrad"):
            return int(call)
    return None


def nodes(roots: list[Any]) -> Iterator[Any]:
    """Every node below the roots once."""
    seen: set[Any] = set()
    waiting = [node for node in roots if node is not None]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(path for path, _ in node.next_functions if path is not None)
