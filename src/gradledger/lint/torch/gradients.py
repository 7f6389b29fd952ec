"""Functions that compute gradients, or change them where they lie."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradledger.ledger import Clip
from gradledger.lint.machine.values import (
    Grad,
    Leaf,
    Tensor,
    Unknown,
    Value,
)
from gradledger.lint.torch import modules, tensors
from gradledger.lint.torch.backward import backward

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]


def autograd_backward(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``torch.autograd.backward(tensors, …)``."""
    targets = args[0] if args else kwargs.get("tensors")
    given = kwargs.get("grad_tensors", args[1] if len(args) > 1 else None)
    retain = kwargs.get("retain_graph", False) is True
    all_targets = list(targets) if isinstance(targets, list | tuple) else [targets]
    gradients = list(given) if isinstance(given, list | tuple) else [given] * len(all_targets)
    if len(all_targets) == 1:
        backward(machine, all_targets[0], node, gradient=gradients[0], retain=retain, inputs=kwargs.get("inputs"))
    elif all_targets:
        together = Tensor((), tensors.joint_leaves(all_targets), factors=None)
        backward(machine, together, node, retain=retain, inputs=kwargs.get("inputs"))
    return None


def autograd_grad(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``torch.autograd.grad(outputs, inputs, …)``."""
    outputs = args[0] if args else kwargs.get("outputs")
    inputs = args[1] if len(args) > 1 else kwargs.get("inputs")
    keeps_graph = kwargs.get("create_graph") is True
    all_outputs = outputs if isinstance(outputs, list | tuple) and outputs else [outputs]
    for mark in tensors.joint_leaves(all_outputs) & machine.retained.keys():
        machine.book.not_in_vain(machine.retained[mark])
    out = tensors.as_tensor(all_outputs[0])
    leaves = out.leaves if keeps_graph else frozenset()
    if isinstance(inputs, list | tuple) or not isinstance(inputs, Tensor | Leaf):
        sources = list(machine.iterate(inputs, node)) if inputs is not None else []
        return tuple(Tensor(tensors.as_tensor(s).shape, leaves) for s in sources)
    return (Tensor(tensors.as_tensor(inputs).shape, leaves),)


def _clip_norm(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return clip(machine, args, kwargs, node, "norm")


def _clip_value(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return clip(machine, args, kwargs, node, "value")


def clip(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST, by: str) -> Value:
    """Gradients are clipped, by norm or by value; with an infinite limit their norm is only read."""
    given = args[0] if args else kwargs.get("parameters")
    limit = tensors.number_or(args[1] if len(args) > 1 else kwargs.get("max_norm", kwargs.get("clip_value")))
    if limit == math.inf:
        return Tensor(())
    elements = [given] if isinstance(given, Leaf | Unknown) else list(machine.iterate(given, node))
    leaves = [leaf for element in elements for leaf in modules.leaves_of(element)]
    machine.record(
        Clip,
        node,
        leaves=frozenset(leaves) or None,
        by=by,
        limit=float(limit) if isinstance(limit, int | float) else None,
    )
    return Tensor(())


def _foreach(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    for element in args[0] if args and isinstance(args[0], list | tuple) else []:
        if isinstance(element, Grad):
            tensors.zero(machine, element.leaf, node)
    return None


def _foreach_scale(op: type[ast.operator]) -> Callable[..., Value]:
    def call(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
        factor = tensors.factor_of(op, args[1] if len(args) > 1 else None)
        for element in args[0] if args and isinstance(args[0], list | tuple) else []:
            if isinstance(element, Grad):
                tensors.adjust(machine, element.leaf, factor, node)
        return None

    return call


GRADIENTS: dict[str, Callable[..., Any]] = {
    "clip_grad_norm_": _clip_norm,
    "clip_grad_norm": _clip_norm,
    "clip_grad_value_": _clip_value,
    "clip_grads_with_norm_": _clip_norm,
    "_foreach_zero_": _foreach,
    "_foreach_mul_": _foreach_scale(ast.Mult),
    "_foreach_div_": _foreach_scale(ast.Div),
}
"""What changes gradients, by the last part of its name."""
