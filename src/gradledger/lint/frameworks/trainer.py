"""The Hugging Face Trainer: its windows are its own, and right wherever the model lets it count the window's units.

The Trainer asks the model's ``forward`` for the sum over the window's tokens where that takes ``**kwargs``; it then
divides by nothing itself. A forward that ignores ``num_items_in_batch`` returns its own mean, and the means add up.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from gradledger.ledger import Clip, EpochEnd, EpochStart
from gradledger.lint.frameworks.adapters import EXACT
from gradledger.lint.machine import numbers
from gradledger.lint.machine.values import MISSING, Bag, Function, Instance, Scheduler, Tensor, Unknown, Value
from gradledger.lint.torch import data, modules, optimizers, schedulers
from gradledger.lint.torch.backward import backward

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]
_COUNT = "num_items_in_batch"
_KINDS = ("Trainer", "Seq2SeqTrainer", "ExactTrainer")


def arguments(args: Args, kwargs: Kwargs) -> Bag:
    """``TrainingArguments(…)``."""
    return Bag("hf.TrainingArguments", {**kwargs, "output_dir": args[0] if args else kwargs.get("output_dir")})


def construct(args: Args, kwargs: Kwargs) -> Bag:
    """``Trainer(…)``."""
    names = ("model", "args", "data_collator", "train_dataset")
    return Bag("hf.Trainer", {**dict(zip(names, args, strict=False)), **kwargs})


def is_trainer(instance: Instance) -> bool:
    """Is it a Trainer that the file extends?"""
    return any(base.rpartition(".")[2] in _KINDS for base in instance.cls.library_bases())


def method(machine: Machine, bag: Bag, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``trainer.name(…)``."""
    if name == "train":
        _train(machine, bag, node)
    return Unknown(f"trainer.{name}()")


def _ignores_the_count(model: Value) -> bool:
    """Its forward takes whatever it is given, and never looks at the number of units or hands it on."""
    forward = model.cls.lookup("forward") if isinstance(model, Instance) else None
    if not isinstance(forward, Function) or forward.node.args.kwarg is None:
        return False
    rest = forward.node.args.kwarg.arg
    named = {argument.arg for argument in [*forward.node.args.args, *forward.node.args.kwonlyargs]}
    used = {name.id for name in ast.walk(forward.node) if isinstance(name, ast.Name)}
    return _COUNT not in named and rest not in used


def _train(machine: Machine, bag: Bag, node: ast.AST) -> None:
    model, options = bag.attributes.get("model"), bag.attributes.get("args")
    given = options.attributes if isinstance(options, Bag) else {}
    steps = given.get("gradient_accumulation_steps", 1)
    steps = steps if isinstance(steps, int) and steps > 0 else numbers.ASSUMED_STEPS
    epochs = given.get("num_train_epochs", numbers.ASSUMED_EPOCHS)
    batch_size = given.get("per_device_train_batch_size", 8)
    loader = data.loader(machine, [bag.attributes.get("train_dataset")], {"batch_size": batch_size}, node)
    optimizer = optimizers.new_optimizer(machine, "AdamW", [modules.leaves_of(model)], {}, node)
    scheduler = Scheduler("LambdaLR", optimizer)
    own_loss = bag.attributes.get("compute_loss_func") not in (None, MISSING)
    means_add_up = EXACT not in bag.attributes and not own_loss and _ignores_the_count(model)
    optimizers.zero(machine, optimizer, node)
    for _ in range(min(int(epochs), 2) if isinstance(epochs, int | float) else 2):
        length = loader.length or 2 * machine.window + 1
        machine.record(EpochStart, node, num_micro_batches=length)
        for index in range(min(length, 4 * steps + length % steps)):
            backward(machine, _loss(machine, model, loader.make(index), means_add_up, node), node)
            if (index + 1) % steps == 0 or index == length - 1:
                if given.get("max_grad_norm", 1.0):
                    machine.record(Clip, node, optimizer=optimizer, by="norm")
                optimizers.step(machine, optimizer, node, scaler=False)
                schedulers.schedule(machine, scheduler, node)
                optimizers.zero(machine, optimizer, node)
        machine.record(EpochEnd, node)


def _loss(machine: Machine, model: Value, batch: Value, means_add_up: bool, node: ast.AST) -> Tensor:
    """The micro-batch's loss; where the Trainer counts for the whole window, only the parameters that it reaches."""
    if means_add_up:
        result = machine.call(model, [], batch if isinstance(batch, dict) else {}, node)
        loss = result.get("loss") if isinstance(result, dict) else result
        if isinstance(loss, Tensor):
            return loss
    return Tensor((), frozenset(leaf for leaf in modules.leaves_of(model) if leaf.requires_grad), factors=None)


def instance_method(
    machine: Machine, instance: Instance, name: str, args: Args, kwargs: Kwargs, node: ast.AST
) -> Value:
    """What the Trainer gives a class of the file that extends it."""
    if name != "train":
        return MISSING
    return method(machine, instance.attributes.get("__trainer__", construct([], {})), name, args, kwargs, node)


def made(instance: Instance, args: Args, kwargs: Kwargs) -> None:
    """A Trainer of the file was made; a loss of its own is for it to scale."""
    known = construct(args, kwargs)
    known.attributes["compute_loss_func"] = instance.cls.lookup("compute_loss")
    if any(base.endswith("ExactTrainer") for base in instance.cls.library_bases()):
        known.attributes[EXACT] = True
    instance.attributes["__trainer__"] = known
