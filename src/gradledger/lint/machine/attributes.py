"""Attributes and elements: ``x.name``, ``x[key]``, and assigning to them."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from gradledger.ledger import Adjust
from gradledger.lint.machine import numbers
from gradledger.lint.machine.values import (
    MISSING,
    Bag,
    Class,
    Dataset,
    External,
    Function,
    Grad,
    Instance,
    Leaf,
    Loader,
    Method,
    Module,
    Native,
    Optimizer,
    Scheduler,
    Tensor,
    Unknown,
    Value,
)
from gradledger.lint.torch import module_methods, modules, tensors

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

_NATIVE = (int, float, str, list, tuple, dict, set, frozenset, range, bytes)
_TENSOR_VIEWS = frozenset({"data", "T", "mT", "H", "real", "loss", "logits"})
_TENSOR_PARTS = frozenset(
    {"dtype", "device", "ndim", "grad_fn", "is_cuda", "is_leaf", "requires_grad", "shape", "grad"}
)


def get_attribute(machine: Machine, value: Value, name: str, node: ast.AST) -> Value:
    """``value.name``."""
    if isinstance(value, External):
        return External(f"{value.name}.{name}")
    if isinstance(value, Instance):
        return _of_instance(machine, value, name, node)
    if isinstance(value, Unknown):
        return of_unknown(value, name)
    if isinstance(value, Tensor):
        return _of_tensor(value, name)
    if isinstance(value, Leaf):
        return _of_leaf(value, name)
    if isinstance(value, Grad):
        return value if name == "data" else Method(value, name)
    if isinstance(value, Module):
        return _of_module(value, name)
    if isinstance(value, Bag):
        return _of_bag(machine, value, name)
    if isinstance(value, Class):
        return _of_class(value, name)
    if isinstance(value, Optimizer) and name == "param_groups":
        return value.groups
    if isinstance(value, Optimizer) and name in ("optimizer", "optim", "base_optimizer"):
        return value
    if isinstance(value, Scheduler) and name == "optimizer":
        return value.optimizer
    if isinstance(value, Loader) and name in ("dataset", "batch_size"):
        return _of_loader(value, name)
    if isinstance(value, Dataset) and name == "tensors":
        return value.tensors
    if isinstance(value, Function) and name == "__name__":
        return value.name
    if isinstance(value, Method) and name in ("__self__", "__func__"):
        return value.receiver
    return Method(value, name)


def _of_loader(value: Loader, name: str) -> Value:
    if name == "dataset":
        return Unknown("dataset") if value.dataset is None else value.dataset
    return numbers.ASSUMED_BATCH_SIZE if value.batch_size is None else value.batch_size


def of_unknown(value: Unknown, name: str) -> Value:
    """An attribute of something unknown: the same object whenever it is asked for."""
    if isinstance(value.role, Tensor):
        return _of_tensor(value.role, name)
    known = value.attributes.get(name)
    if known is None:
        known = numbers.named(f"{value.path}.{name}", varying=value.varying)
        if isinstance(known, Unknown):
            known.leaves = value.leaves
            known.parent = value
            if value.leaf is not None or not value.varying:
                known.leaf = Leaf(known.path, part_of=modules.leaf_of_unknown(value))
        value.attributes[name] = known
    return known


def _of_tensor(tensor: Tensor, name: str) -> Value:
    if name == "shape":
        if tensor.shape is None:
            rows = int(tensor.weight) if tensor.is_batch and tensor.weight else Unknown("size", True)
            return (rows, *(Unknown("size", True) for _ in range(3)))
        return tuple(Unknown("size") if size is None else size for size in tensor.shape)
    if name == "ndim":
        return Unknown("ndim") if tensor.shape is None else len(tensor.shape)
    if name == "requires_grad":
        return bool(tensor.leaves)
    if name == "grad":
        return Unknown("grad", True)
    if name == "data":
        return tensors.detached(tensor)
    if name == "loss":
        scalar = tensor.like(shape=())
        return scalar if tensor.reduction else scalar.like(reduction="mean", weight=4.0, assumed=True)
    if name in _TENSOR_VIEWS:
        return tensor
    if name == "is_cuda":
        return Unknown("is_cuda")
    if name in _TENSOR_PARTS:
        return External(f"torch.{name}")
    return Method(tensor, name)


def _of_leaf(leaf: Leaf, name: str) -> Value:
    if name == "grad":
        return Grad(leaf)
    if name == "requires_grad":
        return leaf.requires_grad
    if name == "data":
        return Tensor(leaf.shape)
    if name in ("shape", "ndim", "dtype", "device") or name in _TENSOR_VIEWS:
        return _of_tensor(tensors.as_tensor(leaf), name)
    return Method(leaf, name)


def _of_module(module: Module, name: str) -> Value:
    if name in module.attributes:
        return module.attributes[name]
    if name in module.options:
        return module.options[name]
    if name == "training":
        return module.training
    if name == "module" and module.kind in modules.WRAPPERS:
        return module.children[0]
    if name in module_methods.METHODS:
        return Method(module, name)
    if module.kind in modules.WRAPPERS and module.children:
        inner = module.children[0]
        if isinstance(inner, Module):
            return _of_module(inner, name)
        if isinstance(inner, Instance):
            return inner.attributes.get(name, Method(module, name))
    for leaf in modules.leaves_of(module):
        if leaf.name == name and leaf.part_of is module.leaf:
            return leaf
    if module.leaf is not None and not name.startswith("_"):
        child = Unknown(f"{module.kind.lower()}.{name}", leaf=Leaf(name, part_of=module.leaf))
        module.attributes[name] = child
        return child
    return Method(module, name)


def _of_bag(machine: Machine, bag: Bag, name: str) -> Value:
    if bag.kind == "super":
        return _of_super(bag, name)
    found = bag.attributes.get(name, MISSING)
    if found is MISSING:
        return Method(bag, name)
    return found.call() if isinstance(found, Native) and found.name == "property" else found


def _of_super(bag: Bag, name: str) -> Value:
    instance, owner = bag.attributes["instance"], bag.attributes["owner"]
    for base in owner.bases if isinstance(owner, Class) else []:
        found = base.lookup(name) if isinstance(base, Class) else MISSING
        if isinstance(found, Function):
            return _bound(found, instance)
    return Method(bag, name)


def _of_class(cls: Class, name: str) -> Value:
    found = cls.lookup(name)
    if found is MISSING:
        return cls.name if name == "__name__" else Method(cls, name)
    if isinstance(found, Function) and "classmethod" in found.wrappers:
        return _bound(found, cls)
    return found


def _of_instance(machine: Machine, instance: Instance, name: str, node: ast.AST) -> Value:
    if name in instance.attributes:
        return instance.attributes[name]
    found = instance.cls.lookup(name)
    if isinstance(found, Function):
        if "property" in found.wrappers:
            return machine.call(found, [instance], {}, node)
        if "staticmethod" in found.wrappers:
            return found
        return _bound(found, instance.cls if "classmethod" in found.wrappers else instance)
    if found is not MISSING:
        return found
    if name == "__class__":
        return instance.cls
    if name == "__dict__":
        return instance.attributes
    if name == "training":
        return instance.attributes.setdefault("training", True)
    if modules.is_module(instance) and name in module_methods.METHODS:
        return Method(instance, name)
    framework = machine.framework_attribute(instance, name)
    if framework is not MISSING:
        return framework
    getter = instance.cls.lookup("__getattr__")
    if isinstance(getter, Function):
        return machine.call(getter, [instance, name], {}, node)
    if instance.cls.library_bases():
        value = numbers.named(f"self.{name}")
        if isinstance(value, Unknown):
            value.leaf = Leaf(name, part_of=modules.leaf_of_instance(instance))
            value.role = Method(instance, name)
        instance.attributes[name] = value
        return value
    return Method(instance, name)


def _bound(function: Function, to: Value) -> Function:
    return Function(function.node, function.scope, to, function.defaults, function.owner, function.wrappers)


def set_attribute(machine: Machine, base: Value, name: str, value: Value, node: ast.AST) -> None:
    """``base.name = value``."""
    if isinstance(base, Leaf):
        _set_on_leaf(machine, base, name, value, node)
    elif isinstance(base, Instance):
        setter = base.cls.lookup(name)
        if isinstance(setter, Function) and any(isinstance(w, str) and w == "setter" for w in setter.wrappers):
            machine.call(setter, [base, value], {}, node)
            return
        base.attributes[name] = value
    elif isinstance(base, Class):
        base.members[name] = value
    elif isinstance(base, Module) and isinstance(value, Leaf) and _replace_parameter(base, name, value):
        return
    elif isinstance(base, Module | Bag | Unknown):
        base.attributes[name] = value
        machine.flag_set(base, name, value)
    elif isinstance(base, Grad) and name == "data":
        machine.book.touch(Adjust, base.leaf, machine.location(node), factor=None)


def _replace_parameter(layer: Module, name: str, value: Leaf) -> bool:
    """``layer.weight = other.weight``: two layers hold one parameter, and what this one held is gone."""
    for position, child in enumerate(layer.children):
        if isinstance(child, Leaf) and child.name == name:
            layer.children[position] = value
            return True
    return False


def _set_on_leaf(machine: Machine, leaf: Leaf, name: str, value: Value, node: ast.AST) -> None:
    if name == "requires_grad":
        leaf.requires_grad = value is not False
    elif name == "grad":
        if value is None or (isinstance(value, Tensor) and value.number == 0):
            tensors.zero(machine, leaf, node)
        elif isinstance(value, Grad) and value.leaf is leaf:
            return
        else:
            own = isinstance(value, Tensor) and value.gradient_of is leaf
            factor = value.scale if own else None
            machine.book.touch(Adjust, leaf, machine.location(node), factor=factor, replaces=leaf.has_grad and not own)
            leaf.has_grad = True
