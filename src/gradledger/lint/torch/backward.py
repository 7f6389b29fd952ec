"""What a backward pass writes in the book."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from gradledger.ledger import Backward
from gradledger.lint.machine.book import ROUND_WEIGHT
from gradledger.lint.machine.values import Leaf, Scaler, Tensor, Value
from gradledger.lint.torch import tensors

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine


def backward(
    machine: Machine,
    loss: Value,
    node: ast.AST | None,
    *,
    gradient: Value = None,
    retain: bool = False,
    inputs: Value = None,
    factor: float | None = 1.0,
    trainer_steps: int | None = None,
) -> None:
    """``loss.backward()``.

    Args:
        machine: The machine.
        loss: What backward is called on.
        node: The call.
        retain: The graph is kept.
        gradient: The coefficient given to it; only a number is understood.
        inputs: The only parameters that receive gradients, where given.
        factor: What a framework multiplies the loss by first; None is not known.
        trainer_steps: What it believes a window to hold.
    """
    tensor = tensors.as_tensor(loss)
    if factor != 1.0:
        tensor = tensors.scaled(tensor, factor)  # None leaves the scale unknown
    if gradient is not None:
        tensor = tensors.scaled(tensor, tensors.number_or(gradient))
    leaves = tensor.leaves
    if isinstance(inputs, list | tuple):
        leaves = frozenset(leaf for leaf in inputs if isinstance(leaf, Leaf))
    for leaf in leaves:
        leaf.has_grad = True
    passes = [leaf for leaf in leaves if leaf.is_pass]
    if any(mark.spans_window for mark in passes):
        tensor = tensor.like(factors=None, coupled=False)
    machine.deepest_backward = max(machine.deepest_backward, len(machine.loop_lines))
    machine.num_calls += 1
    reuses = next((machine.retained[mark] for mark in passes if mark in machine.retained), None)
    if retain:
        machine.retained.update(dict.fromkeys(passes, machine.num_calls))
    leaves = leaves - frozenset(passes)
    record(machine, tensor, node, leaves or None, retain, reuses, _synced(passes), trainer_steps)
    _run_hooks(machine, leaves, node)


def _synced(passes: list[Leaf]) -> bool | None:
    known = [mark.synced for mark in passes if mark.synced is not None]
    return any(known) if known else None


def _run_hooks(machine: Machine, leaves: frozenset[Leaf], node: ast.AST | None) -> None:
    hooked = [leaf for leaf in leaves if leaf.hooks]
    if not hooked:
        return
    machine.in_backward = True
    machine.hook_location = machine.location(node)
    for leaf in hooked:
        for hook in leaf.hooks:
            machine.call(hook, [leaf], {}, node or ast.Pass())
    machine.in_backward = False
    machine.hook_location = None


def record(
    machine: Machine,
    tensor: Tensor,
    node: ast.AST | None,
    leaves: frozenset[Leaf] | None,
    retain: bool,
    reuses: int | None,
    synced: bool | None,
    trainer_steps: int | None = None,
) -> None:
    """Write the backward pass down with what is known of its loss."""
    is_loss = tensor.reduction is not None
    scaler = tensor.scaler
    machine.record(
        Backward,
        node,
        leaves=leaves,
        assumed=is_loss and (tensor.assumed or tensor.weight is None),
        weight=ROUND_WEIGHT if tensor.weight is None and is_loss else tensor.weight,
        unit=tensor.unit,
        scale=tensor.scale if is_loss else None,
        factors=tensor.factors if is_loss else None,
        reduction=tensor.reduction,
        retained=retain,
        reuses=reuses,
        synced=synced,
        grad_dtype=next((leaf.dtype for leaf in leaves or () if leaf.dtype is not None), None),
        call=machine.num_calls,
        scaled_by_scaler=scaler.enabled if isinstance(scaler, Scaler) else False,
        batch_norm=tensor.batch_norm or None,
        coupled=tensor.coupled or None,
        trainer_steps=trainer_steps,
    )
