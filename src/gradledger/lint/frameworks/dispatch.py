"""Objects that own a part of the training loop: Accelerate, Fabric, Lightning, the Hugging Face Trainer, DeepSpeed."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from gradledger.lint.frameworks import accelerate, adapters, lightning, trainer
from gradledger.lint.machine import contexts, numbers
from gradledger.lint.machine.values import MISSING, Bag, Context, External, Instance, Unknown, Value
from gradledger.lint.python import methods
from gradledger.lint.torch import modules, optimizers

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]


def call_external(machine: Machine, function: External, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """A framework's class or function is called; MISSING if it is none."""
    root, last = function.name.partition(".")[0], function.last
    if root == "accelerate":
        return accelerate.construct(machine, last, args, kwargs, node)
    if root == "gradledger" and last == "Accumulator":
        return Bag("gradledger.Accumulator")  # its windows balance by construction: nothing to predict
    if function.name.startswith("gradledger.integrations."):
        return adapters.construct(function.name, args, kwargs)
    if last == "Fabric":
        return Bag("fabric", {"device": Unknown("device"), "global_rank": 0, "world_size": 1, "is_global_zero": True})
    if last == "Trainer" and root in ("lightning", "pytorch_lightning"):
        return Bag("lightning.Trainer", {"options": dict(kwargs), "node": node})
    if last == "GradientAccumulationScheduler":
        return Bag("accumulation_schedule", {"scheduling": args[0] if args else kwargs.get("scheduling")})
    if last in ("TrainingArguments", "Seq2SeqTrainingArguments"):
        return trainer.arguments(args, kwargs)
    if last in ("Trainer", "Seq2SeqTrainer", "SFTTrainer") and root in ("transformers", "trl"):
        return trainer.construct(args, kwargs)
    if function.name in ("deepspeed.initialize", "deepspeed.init"):
        return _deepspeed(machine, kwargs)
    if root == "apex" and last == "scale_loss":
        loss = args[0] if args else None
        return Context("scale_loss", lambda: loss)  # what it multiplies by, it takes out of the gradients on leaving
    if root == "apex" and last == "initialize":
        return tuple(args) if len(args) > 1 else (args[0] if args else None)
    return MISSING


def _deepspeed(machine: Machine, kwargs: Kwargs) -> Value:
    machine.book.unclear.append("DeepSpeed owns the windows")
    engine = Unknown("model_engine")
    return (engine, kwargs.get("optimizer", Unknown("optimizer")), Unknown("loader"), Unknown("scheduler"))


def call_bag(machine: Machine, bag: Bag, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """An object with attributes only is called."""
    return Unknown(f"{bag.kind}()")


def bag_method(machine: Machine, bag: Bag, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """A method of a framework object."""
    if bag.kind == "accelerator":
        return accelerate.method(machine, bag, name, args, kwargs, node)
    if bag.kind == "fabric":
        return _fabric_method(machine, bag, name, args, kwargs, node)
    if bag.kind == "lightning.Trainer":
        return lightning.trainer_method(machine, bag, name, args, kwargs, node)
    if bag.kind == "hf.Trainer":
        return trainer.method(machine, bag, name, args, kwargs, node)
    if bag.kind == "gradledger.Accumulator":
        return [Bag("gradledger.Window")] if name == "windows" else Bag("gradledger.Window")
    if bag.kind == "gradledger.ExactWindows":
        return adapters.method(machine, name, args, node)
    if bag.kind == "parser":
        return _parser_method(bag, name, args, kwargs)
    if bag.kind == "namespace" and name == "__contains__":
        return args[0] in bag.attributes
    if bag.kind == "super":
        return _super_method(machine, bag, name, args, kwargs, node)
    value = numbers.named(name)
    return Unknown(f"{name}()") if isinstance(value, Unknown) else value


def _super_method(machine: Machine, bag: Bag, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    from gradledger.lint.machine import calls

    instance = bag.attributes["instance"]
    if name == "__init__" and isinstance(instance, Instance) and _is_optimizer(instance):
        made(machine, instance, args, kwargs)
        return None
    if name == "__init__" or not isinstance(instance, Instance):
        if isinstance(instance, Instance) and not modules.is_module(instance):
            for index, value in enumerate(args):
                instance.attributes.setdefault(f"__base_{index}__", value)
        return None
    return calls.call_method(machine, instance, name, args, kwargs, node)


def _parser_method(bag: Bag, name: str, args: Args, kwargs: Kwargs) -> Value:
    known = bag.attributes["__arguments__"]
    if name == "add_argument":
        names = [arg for arg in args if isinstance(arg, str)]
        long = next((n for n in names if n.startswith("--")), names[0] if names else "argument")
        target = kwargs.get("dest", long.lstrip("-").replace("-", "_"))
        known.attributes[target] = _argument_value(target, kwargs)
        return None
    if name in ("parse_args", "parse_known_args"):
        return known if name == "parse_args" else (known, [])
    if name in ("add_argument_group", "add_mutually_exclusive_group"):
        return bag
    if name == "set_defaults":
        known.attributes.update(kwargs)
    return None


def _argument_value(target: str, kwargs: Kwargs) -> Value:
    action = kwargs.get("action")
    if action in ("store_true", "store_false"):
        return Unknown(f"args.{target}")
    default = kwargs.get("default", MISSING)
    if default is MISSING or default is None:
        return numbers.named(f"args.{target}")
    if default == 1 and numbers.number_for(target) == numbers.ASSUMED_STEPS:
        return numbers.ASSUMED_STEPS
    return default


def _fabric_method(machine: Machine, bag: Bag, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    from gradledger.lint.torch.backward import backward
    from gradledger.lint.torch.gradients import clip

    if name in ("setup", "setup_dataloaders", "setup_module", "setup_optimizers", "to_device"):
        return args[0] if len(args) == 1 else tuple(args)
    if name == "backward" and args:
        backward(machine, args[0], node)
    elif name == "no_backward_sync":
        enabled = kwargs.get("enabled", args[1] if len(args) > 1 else True)
        return contexts.no_sync(machine) if machine.truth(enabled, node) else Context("null")
    elif name == "clip_gradients":
        return clip(machine, args, kwargs, node, "norm" if "max_norm" in kwargs else "value")
    elif name in ("autocast", "init_module", "rank_zero_first"):
        return Context("null")
    elif name in ("log", "log_dict", "print"):
        for value in [*args, *kwargs.values()]:
            methods.show_all(machine, value)
    return None


def instance_method(
    machine: Machine, instance: Instance, name: str, args: Args, kwargs: Kwargs, node: ast.AST
) -> Value:
    """A method that a framework's base class gives an object of the file; MISSING if it is none."""
    if lightning.is_lightning(instance):
        return lightning.module_method(machine, instance, name, args, kwargs, node)
    if trainer.is_trainer(instance):
        return trainer.instance_method(machine, instance, name, args, kwargs, node)
    if _is_optimizer(instance) and name in ("zero_grad", "step", "state_dict", "load_state_dict"):
        return optimizers.optimizer_method(machine, _optimizer_of(machine, instance, node), name, args, kwargs, node)
    return MISSING


def _is_optimizer(instance: Instance) -> bool:
    return any(
        base.rpartition(".")[2] in ("Optimizer", *optimizers.OPTIMIZERS) for base in instance.cls.library_bases()
    )


def _optimizer_of(machine: Machine, instance: Instance, node: ast.AST) -> Value:
    known = instance.attributes.get("__optimizer__")
    if known is None:
        known = optimizers.new_optimizer(machine, instance.cls.name, [], {}, node)
        instance.attributes["__optimizer__"] = known
    return known


def made(machine: Machine, instance: Instance, args: Args, kwargs: Kwargs) -> None:
    """An object of the file was made: a home-made optimizer opens its account."""
    if trainer.is_trainer(instance):
        trainer.made(instance, args, kwargs)
    if _is_optimizer(instance) and "__optimizer__" not in instance.attributes:
        given = kwargs.get("params", args[0] if args else None)
        made_one = optimizers.new_optimizer(machine, instance.cls.name, [given], {}, instance.cls.node)
        instance.attributes |= {"__optimizer__": made_one, "param_groups": made_one.groups, "state": {}}
