"""Accelerate: the accelerator divides, and holds steps back while gradients accumulate."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from gradledger.lint.frameworks.adapters import EXACT
from gradledger.lint.machine import numbers
from gradledger.lint.machine.contexts import no_sync
from gradledger.lint.machine.values import MISSING, Bag, Context, Loader, Optimizer, Scheduler, Unknown, Value
from gradledger.lint.torch import optimizers
from gradledger.lint.torch.backward import backward

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]


def construct(machine: Machine, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``Accelerator(…)``; MISSING for accelerate's other names."""
    if name in ("GradientAccumulationPlugin",):
        return Bag("plugin", dict(kwargs))
    if name != "Accelerator":
        return MISSING
    steps = kwargs.get("gradient_accumulation_steps", 1)
    plugin = kwargs.get("gradient_accumulation_plugin")
    if isinstance(plugin, Bag):
        steps = plugin.attributes.get("num_steps", 1)
    steps = numbers.ASSUMED_STEPS if isinstance(steps, Unknown) else steps
    steps = steps if isinstance(steps, int) else 1
    if steps > 1:  # whether the last window is short is in the data, where the source does not say
        machine.whole_windows = 2 * steps
    return Bag(
        "accelerator",
        {
            "gradient_accumulation_steps": steps,
            "steps_at_end": not isinstance(plugin, Bag) or plugin.attributes.get("sync_with_dataloader") is not False,
            "sync_gradients": True,
            "step_count": 0,
            "device": Unknown("device"),
            "is_main_process": True,
            "is_local_main_process": True,
            "num_processes": 1,
            "process_index": 0,
        },
    )


def method(machine: Machine, bag: Bag, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``accelerator.name(…)``."""
    if name == "prepare":
        prepared = [_prepared(bag, value) for value in args]
        return prepared[0] if len(prepared) == 1 else tuple(prepared)
    if name in ("prepare_model", "prepare_optimizer", "prepare_data_loader", "prepare_scheduler"):
        return _prepared(bag, args[0]) if args else Unknown()
    if name == "accumulate":
        return Context("accumulate", lambda: _count(machine, bag))
    if name == "backward" and args:
        steps = bag.attributes["gradient_accumulation_steps"]
        factor = None if EXACT in bag.attributes else 1.0 / steps if steps else 1.0
        backward(machine, args[0], node, factor=factor, trainer_steps=steps)
        return None
    if name in ("clip_grad_norm_", "clip_grad_value_"):
        from gradledger.lint.torch.gradients import clip

        return clip(machine, args, kwargs, node, "norm" if "norm" in name else "value")
    if name in ("unwrap_model", "gather", "gather_for_metrics", "pad_across_processes", "reduce"):
        return args[0] if args else Unknown()
    if name == "no_sync":
        return no_sync(machine)
    if name in ("autocast", "main_process_first", "local_main_process_first", "join_uneven_inputs", "profile"):
        return Context("null")
    if name in ("log", "print"):
        from gradledger.lint.python.methods import show_all

        for value in args:
            show_all(machine, value)
    return None


def _prepared(bag: Bag, value: Value) -> Value:
    if isinstance(value, Optimizer | Scheduler):
        value.accelerator = bag
    elif isinstance(value, Loader):
        value.prepared = True
    return value


def _count(machine: Machine, bag: Bag) -> None:
    """Decide whether this micro-batch is the window's last, as accelerate does."""
    loader = next((one for one in reversed(machine.passes) if one.prepared or one.length is None), None)
    at_end = bag.attributes["steps_at_end"] and loader is not None and loader.state[0] == loader.state[1] - 1
    if at_end:
        bag.attributes["step_count"] = 0
        bag.attributes["sync_gradients"] = True
        return
    bag.attributes["step_count"] += 1
    bag.attributes["sync_gradients"] = bag.attributes["step_count"] % bag.attributes["gradient_accumulation_steps"] == 0


def is_prepared_optimizer(value: Value) -> bool:
    """Does an accelerator hold its steps back?"""
    return optimizers.is_optimizer_like(value) and isinstance(value, Optimizer) and value.accelerator is not None
