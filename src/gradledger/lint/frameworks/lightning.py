"""Lightning: the Trainer owns the loop, the module owns the step."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from gradledger.ledger import Clip, EpochEnd, EpochStart
from gradledger.lint.frameworks.adapters import EXACT
from gradledger.lint.machine import numbers
from gradledger.lint.machine.values import (
    MISSING,
    Bag,
    Class,
    Context,
    Function,
    Instance,
    Loader,
    Optimizer,
    Scheduler,
    Tensor,
    Unknown,
    Value,
)
from gradledger.lint.python import methods
from gradledger.lint.torch import modules, optimizers, schedulers
from gradledger.lint.torch.backward import backward

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]
_MAX_EPOCHS = 2


def is_lightning(instance: Instance) -> bool:
    """Is it a LightningModule of the file?"""
    return any(base.endswith("LightningModule") for base in instance.cls.library_bases())


def module_method(machine: Machine, instance: Instance, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """What LightningModule itself provides; MISSING for the rest."""
    if name == "optimizers":
        made = instance.attributes.get("__optimizers__", [])
        return made[0] if len(made) == 1 else list(made) if made else Unknown("self.optimizers")
    if name == "lr_schedulers":
        made = instance.attributes.get("__schedulers__", [])
        return made[0] if len(made) == 1 else list(made) if made else None
    if name == "manual_backward" and args:
        backward(machine, args[0], node, retain=kwargs.get("retain_graph") is True)
        return None
    if name == "toggle_optimizer" and args:
        _toggle(instance, args[0])
        return None
    if name == "untoggle_optimizer":
        for leaf in instance.attributes.pop("__frozen__", []):
            leaf.requires_grad = True
        return None
    if name == "clip_gradients" and args and isinstance(args[0], Optimizer):
        machine.record(Clip, node, optimizer=args[0], by="norm")
        return None
    if name in ("log", "log_dict", "print"):
        for value in [*args, *kwargs.values()]:
            methods.show_all(machine, value)
        return None
    return Context("null") if name == "toggled_optimizer" else MISSING


def _toggle(instance: Instance, optimizer: Value) -> None:
    if not isinstance(optimizer, Optimizer) or optimizer.leaves is None:
        return
    others = [leaf for leaf in modules.leaves_of(instance) if leaf.requires_grad and leaf not in optimizer.leaves]
    for leaf in others:
        leaf.requires_grad = False
    instance.attributes["__frozen__"] = others


def trainer_method(machine: Machine, bag: Bag, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``Trainer.name(…)``."""
    if name == "fit":
        module = args[0] if args else kwargs.get("model")
        loader = args[1] if len(args) > 1 else kwargs.get("train_dataloaders", kwargs.get("datamodule"))
        if isinstance(module, Instance) and is_lightning(module):
            fit(machine, module, loader, bag.attributes["options"], node)
    return None


def fit(machine: Machine, module: Instance, loader: Value, options: dict[str, Value], node: ast.AST) -> None:
    """The loop that ``Trainer.fit`` runs."""
    trainer = Bag("lightning.Trainer", {"options": options, **_trainer_attributes(options)})
    module.attributes["trainer"] = trainer
    configure(machine, module, node)
    if not isinstance(module.cls.lookup("training_step"), Function):
        return
    if not isinstance(loader, Loader):
        loader = _own_loader(machine, loader if isinstance(loader, Instance) else module, node)
    epochs = options.get("max_epochs", _MAX_EPOCHS)
    epochs = min(epochs, _MAX_EPOCHS) if isinstance(epochs, int) and epochs > 0 else _MAX_EPOCHS
    manual = module.attributes.get("automatic_optimization", module.cls.lookup("automatic_optimization")) is False
    clips = options.get("gradient_clip_val") not in (None, 0)
    if any(callback.kind == "gradledger.ExactWindows" for callback in _callbacks(options)):
        module.attributes[EXACT] = True
    for optimizer in module.attributes.get("__optimizers__", []):
        optimizers.zero(machine, optimizer, node)
    for epoch in range(epochs):
        module.attributes["current_epoch"] = trainer.attributes["current_epoch"] = epoch
        _epoch(machine, module, loader, node, steps=_steps(options, epoch), manual=manual, clips=clips)


def _trainer_attributes(options: dict[str, Value]) -> dict[str, Value]:
    """What a module reads from ``self.trainer``."""
    known: dict[str, Value] = {
        name: options[name] for name in ("accumulate_grad_batches", "max_epochs", "max_steps") if name in options
    }
    return {"world_size": 1, "is_global_zero": True, "sanity_checking": False, "training": True, **known}


def _steps(options: dict[str, Value], epoch: int) -> int:
    """Micro-batches of a window in this epoch."""
    steps = options.get("accumulate_grad_batches", 1)
    for callback in _callbacks(options):
        schedule = callback.attributes.get("scheduling")
        if isinstance(schedule, dict):
            begun = [start for start in schedule if isinstance(start, int) and start <= epoch]
            steps = schedule[max(begun)] if begun else 1
    return steps if isinstance(steps, int) and steps > 0 else numbers.ASSUMED_STEPS


def _callbacks(options: dict[str, Value]) -> list[Bag]:
    callbacks = options.get("callbacks")
    return [each for each in (callbacks if isinstance(callbacks, list) else [callbacks]) if isinstance(each, Bag)]


def _own_loader(machine: Machine, owner: Instance, node: ast.AST) -> Loader:
    """The loader of a module or a data module."""
    prepare, own = owner.cls.lookup("setup"), owner.cls.lookup("train_dataloader")
    if isinstance(prepare, Function):
        machine.call(prepare, [owner, "fit"], {}, node)
    made = machine.call(own, [owner], {}, node) if isinstance(own, Function) else None
    if isinstance(made, Loader):
        return made
    from gradledger.lint.machine.iteration import unknown_batch

    return Loader(None, lambda index: unknown_batch())


def _epoch(
    machine: Machine, module: Instance, loader: Loader, node: ast.AST, *, steps: int, manual: bool, clips: bool
) -> None:
    assumed = 2 * steps if steps > 1 and not manual else 2 * machine.window + 1  # as for Accelerate: whole windows
    length = loader.length if loader.length is not None else assumed
    length = min(length, 4 * max(steps, 3) + length % max(steps, 1))
    machine.record(EpochStart, node, num_micro_batches=length)
    trainer = module.attributes["trainer"].attributes
    trainer["num_training_batches"] = length
    for index in range(length):
        trainer["is_last_batch"] = index == length - 1
        machine.loop_lines.append(getattr(node, "lineno", 0))
        last = index == length - 1
        if manual:
            _training_step(machine, module, loader.make(index), index, node)
        else:
            _automatic(machine, module, loader.make(index), index, node, steps=steps, last=last, clips=clips)
        machine.loop_lines.pop()
    if not manual:
        _schedule(machine, module, node, "epoch")
    machine.record(EpochEnd, node)
    hook = module.cls.lookup("on_train_epoch_end")
    if isinstance(hook, Function):
        machine.call(hook, [module], {}, node)


def _training_step(machine: Machine, module: Instance, batch: Value, index: int, node: ast.AST) -> Value:
    before, step = module.cls.lookup("on_train_batch_start"), module.cls.lookup("training_step")
    if isinstance(before, Function):
        machine.call(before, [module, batch, index], {}, node)
    num_wanted = len(step.node.args.args)
    return machine.call(step, [module, batch, index][:num_wanted], {}, node)


def _automatic(
    machine: Machine, module: Instance, batch: Value, index: int, node: ast.AST, *, steps: int, last: bool, clips: bool
) -> None:
    result = _training_step(machine, module, batch, index, node)
    loss = result.get("loss") if isinstance(result, dict) else result
    if not isinstance(loss, Tensor):
        machine.book.unclear.append("training_step returns no loss that can be followed")
        return
    optimizer = next(iter(module.attributes.get("__optimizers__", [])), None)
    if optimizer is None:
        return
    if index % steps == 0:
        optimizers.zero(machine, optimizer, node)
    backward(machine, loss, node, factor=None if EXACT in module.attributes else 1.0 / steps)
    if (index + 1) % steps == 0 or last:
        own_clipping = module.cls.lookup("configure_gradient_clipping")
        if isinstance(own_clipping, Function):
            machine.call(own_clipping, [module, optimizer, None, None], {}, node)
        elif clips:
            machine.record(Clip, node, optimizer=optimizer, by="norm")
        optimizers.step(machine, optimizer, node, scaler=False)
        _schedule(machine, module, node, "step")


def _schedule(machine: Machine, module: Instance, node: ast.AST, interval: str) -> None:
    for scheduler in module.attributes.get("__schedulers__", []):
        if scheduler.interval == interval:
            schedulers.schedule(machine, scheduler, node)


def configure(machine: Machine, module: Instance, node: ast.AST) -> None:
    """Run ``configure_optimizers`` and keep what it made."""
    method = module.cls.lookup("configure_optimizers")
    made = machine.call(method, [module], {}, node) if isinstance(method, Function) else None
    found: list[Optimizer] = []
    schedulers: list[Scheduler] = []
    _collect(made, found, schedulers, "epoch")
    module.attributes["__optimizers__"] = found
    module.attributes["__schedulers__"] = schedulers


def _collect(made: Value, found: list[Optimizer], schedulers: list[Scheduler], interval: str) -> None:
    if isinstance(made, Optimizer):
        found.append(made)
    elif isinstance(made, Scheduler):
        made.interval = interval
        schedulers.append(made)
    elif isinstance(made, dict):
        own = made.get("interval", interval)
        for value in made.values():
            _collect(value, found, schedulers, own if isinstance(own, str) else interval)
    elif isinstance(made, list | tuple):
        for value in made:
            _collect(value, found, schedulers, interval)


def lightning_classes(names: dict[str, Value]) -> list[Class]:
    """The LightningModules that a file defines at its top."""
    return [
        value
        for value in names.values()
        if isinstance(value, Class) and any(base.endswith("LightningModule") for base in value.library_bases())
    ]
