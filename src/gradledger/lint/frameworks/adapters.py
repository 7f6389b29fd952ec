"""``gradledger.integrations``: other trainers' windows, with shares that are exact and in no source text."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradledger.lint.machine import numbers
from gradledger.lint.machine.values import MISSING, Bag, Value
from gradledger.lint.torch.backward import backward

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]
EXACT = "is_exact"
"""Attribute of an accelerator, a Trainer or a LightningModule whose losses count by their share."""


def construct(name: str, args: Args, kwargs: Kwargs) -> Value:
    """``ExactWindows(…)`` and ``ExactTrainer(…)``, by their full names; MISSING for others."""
    module, _, last = name.removeprefix("gradledger.integrations.").rpartition(".")
    if last == "ExactTrainer":
        from gradledger.lint.frameworks import trainer

        return _exact(trainer.construct(args, kwargs))
    if last != "ExactWindows":
        return MISSING
    owner = args[0] if args else kwargs.get(module)
    loader = args[1] if len(args) > 1 else kwargs.get("loader")
    if module == "accelerate":
        _exact(owner)
        return loader
    if module == "fabric":
        steps = kwargs.get("steps")
        steps = steps if isinstance(steps, int) and steps > 0 else numbers.ASSUMED_STEPS
        return Bag("gradledger.ExactWindows", {"loader": loader, "steps": steps})
    return Bag("gradledger.ExactWindows")


def _exact(owner: Value) -> Value:
    if isinstance(owner, Bag):
        owner.attributes[EXACT] = True
    return owner


def iterate(machine: Machine, bag: Bag, node: ast.AST) -> Iterator[Value]:
    """The micro-batches of Fabric's ``ExactWindows``, which says of each whether it is its window's last."""
    from gradledger.lint.machine import iteration

    loader, steps = bag.attributes.get("loader"), bag.attributes.get("steps", 1)
    length = iteration.sized(loader) or 2 * machine.window + 1
    for number, micro_batch in enumerate(iteration.iterate(machine, loader, node), start=1):
        bag.attributes["is_last"] = number % steps == 0 or number == length
        bag.attributes["is_accumulating"] = not bag.attributes["is_last"]
        yield micro_batch


def method(machine: Machine, name: str, args: Args, node: ast.AST) -> Value:
    """``batches.name(…)``."""
    if name == "backward" and args:
        backward(machine, args[0], node, factor=None)
    return None
