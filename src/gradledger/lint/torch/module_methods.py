"""Methods that every model has."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradledger.ledger import Zero
from gradledger.lint.machine.values import External, Instance, Leaf, Module, Tensor, Unknown, Value
from gradledger.lint.torch import tensors
from gradledger.lint.torch.modules import is_module, leaves_of

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

METHODS = frozenset(
    {
        "parameters", "named_parameters", "modules", "named_modules", "children", "named_children",
        "state_dict", "load_state_dict", "train", "eval", "to", "cuda", "cpu", "half", "float", "double",
        "bfloat16", "zero_grad", "requires_grad_", "apply", "no_sync", "register_buffer", "register_parameter",
        "register_forward_hook", "add_module", "buffers", "named_buffers", "forward", "compile", "share_memory",
        "type", "append", "extend", "insert", "items", "keys", "values", "get_submodule", "get_parameter",
        "set_requires_gradient_sync", "register_module", "__call__", "unshard", "join",
        "gradient_checkpointing_enable", "freeze", "clip_grad_norm_", "register_full_backward_hook",
        "get_input_embeddings", "save_pretrained", "resize_token_embeddings", "tie_weights", "generate",
        "summon_full_params", "update_parameters",
    }
)  # fmt: skip


def module_method(
    machine: Machine, value: Value, name: str, args: list[Value], kwargs: dict[str, Value], node: ast.AST
) -> Value:
    """``model.name(…)``."""
    handler = _METHOD_HANDLERS.get(name)
    if handler is not None:
        return handler(machine, value, args, kwargs, node)
    if name in _RETURN_SELF:
        return value
    if name in ("to", "type", *_DTYPES):
        return _cast(machine, value, name, args, kwargs)
    if name in ("forward", "__call__", "generate"):
        return machine.call(value, args, kwargs, node)
    return Unknown(f"{name}()")


_RETURN_SELF = frozenset(["cuda", "cpu", "apply", "share_memory", "compile"])


def _cast(machine: Machine, value: Value, name: str, args: list[Value], kwargs: dict[str, Value]) -> Value:
    """``model.half()`` and ``model.to(dtype)``."""
    given = [*args, kwargs.get("dtype")]
    names = [arg.last for arg in given if isinstance(arg, External)] + [name]
    for wanted in names:
        if wanted in _DTYPES:
            for leaf in leaves_of(value):
                leaf.dtype = _DTYPES[wanted]
    return value


_DTYPES = {
    "half": "float16", "bfloat16": "bfloat16", "float16": "float16", "float": None, "double": None, "float32": None,
    "float64": None,
}  # fmt: skip


def _parameters(machine: Machine, value: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
    return leaves_of(value)


def _named_parameters(
    machine: Machine, value: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST
) -> Value:
    return [(path, leaf) for path, leaf in _paths(value, "")]


def _paths(value: Value, prefix: str) -> list[tuple[str, Leaf]]:
    if isinstance(value, Leaf):
        return [(prefix.rstrip("."), value)]
    if isinstance(value, Module):
        inner = list(value.attributes.items()) or [(str(i), child) for i, child in enumerate(value.children)]
        found = [pair for name, child in inner for pair in _paths(child, f"{prefix}{getattr(child, 'name', name)}.")]
        return found if value.leaf is None else [(f"{prefix}weight", value.leaf)]
    if isinstance(value, Instance):
        pairs = [
            pair
            for name, attribute in value.attributes.items()
            if isinstance(attribute, Module | Leaf) or is_module(attribute)
            for pair in _paths(attribute, f"{prefix}{name}.")
        ]
        return pairs or [(leaf.name, leaf) for leaf in leaves_of(value)]
    return [(leaf.name, leaf) for leaf in leaves_of(value)]


def _submodules(value: Value) -> list[Value]:
    if isinstance(value, Module):
        return [
            value,
            *(inner for child in value.children if not isinstance(child, Leaf) for inner in _submodules(child)),
        ]
    if isinstance(value, Instance):
        return [value, *(m for a in value.attributes.values() if is_module(a) for m in _submodules(a))]
    return [value]


def _modules(machine: Machine, value: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
    return _submodules(value)


def _children(machine: Machine, value: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
    if isinstance(value, Module):
        return list(value.children)
    if isinstance(value, Instance):
        return [attribute for attribute in value.attributes.values() if is_module(attribute)]
    return []


def _train(machine: Machine, value: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
    mode = args[0] if args and isinstance(args[0], bool) else True
    for module in _submodules(value):
        if isinstance(module, Module):
            module.training = mode
        elif isinstance(module, Instance):
            module.attributes["training"] = mode
    return value


def _eval(machine: Machine, value: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
    return _train(machine, value, [False], kwargs, node)


def _zero_grad(machine: Machine, value: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
    leaves = leaves_of(value)
    machine.record(Zero, node, leaves=frozenset(leaves), void=tensors.forget(leaves))
    return None


def _requires_grad(machine: Machine, value: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
    wanted = args[0] if args else kwargs.get("requires_grad", True)
    for leaf in leaves_of(value):
        leaf.requires_grad = wanted is not False
    return value


def _no_sync(machine: Machine, value: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
    return machine.sync_context()


def _set_sync(machine: Machine, value: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
    machine.sync_flag = not args or args[0] is not False
    return None


def _append(machine: Machine, value: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
    if isinstance(value, Module):
        value.children.append(args[-1] if args else None)
    return value


def _extend(machine: Machine, value: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
    if isinstance(value, Module) and args:
        value.children.extend(machine.iterate(args[0], node))
    return value


def _register(machine: Machine, value: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
    if isinstance(value, Instance | Module) and len(args) > 1 and isinstance(args[0], str):
        value.attributes[args[0]] = args[1]
        if isinstance(value, Module) and isinstance(args[1], Leaf | Module | Instance):
            value.children.append(args[1])
    return None


def _items(machine: Machine, value: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
    return list(value.attributes.items()) if isinstance(value, Module) else []


def _update_parameters(
    machine: Machine, value: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST
) -> Value:
    from gradledger.ledger import Average

    machine.record(Average, node)
    return None


def _clip(machine: Machine, value: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
    from gradledger.ledger import Clip

    machine.record(Clip, node, leaves=frozenset(leaves_of(value)), by="norm")
    return Tensor(())


_METHOD_HANDLERS: dict[str, Callable[..., Any]] = {
    "parameters": _parameters,
    "named_parameters": _named_parameters,
    "modules": _modules,
    "named_modules": lambda machine, value, *_: [(str(i), m) for i, m in enumerate(_submodules(value))],
    "children": _children,
    "named_children": lambda machine, value, *rest: [
        (str(i), c) for i, c in enumerate(_children(machine, value, *rest))
    ],
    "buffers": lambda *_: [],
    "named_buffers": lambda *_: [],
    "state_dict": lambda *_: {},
    "load_state_dict": lambda *_: None,
    "train": _train,
    "eval": _eval,
    "zero_grad": _zero_grad,
    "requires_grad_": _requires_grad,
    "no_sync": _no_sync,
    "set_requires_gradient_sync": _set_sync,
    "append": _append,
    "extend": _extend,
    "register_buffer": _register,
    "register_parameter": _register,
    "add_module": _register,
    "register_module": _register,
    "items": _items,
    "keys": lambda machine, value, *_: list(getattr(value, "attributes", {})),
    "values": lambda machine, value, *_: list(getattr(value, "children", [])),
    "update_parameters": _update_parameters,
    "clip_grad_norm_": _clip,
}
