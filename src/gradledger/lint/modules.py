"""Models and layers: which parameters they own, what their methods do, what calling them gives."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradledger.ledger import Zero
from gradledger.lint import losses, tensors
from gradledger.lint.values import MISSING, Bag, External, Function, Instance, Leaf, Module, Tensor, Unknown, Value

if TYPE_CHECKING:
    from gradledger.lint.machine import Machine

WRAPPERS = frozenset(
    ["DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "compile", "AveragedModel"]
)
METHODS = frozenset(
    [
        "parameters",
        "named_parameters",
        "modules",
        "named_modules",
        "children",
        "named_children",
        "state_dict",
        "load_state_dict",
        "train",
        "eval",
        "to",
        "cuda",
        "cpu",
        "half",
        "float",
        "double",
        "bfloat16",
        "zero_grad",
        "requires_grad_",
        "apply",
        "no_sync",
        "register_buffer",
        "register_parameter",
        "register_forward_hook",
        "add_module",
        "buffers",
        "named_buffers",
        "forward",
        "compile",
        "share_memory",
        "type",
        "append",
        "extend",
        "insert",
        "items",
        "keys",
        "values",
        "get_submodule",
        "get_parameter",
        "set_requires_gradient_sync",
        "register_module",
        "__call__",
        "unshard",
        "join",
        "gradient_checkpointing_enable",
        "freeze",
        "clip_grad_norm_",
        "register_full_backward_hook",
        "get_input_embeddings",
        "save_pretrained",
        "resize_token_embeddings",
        "tie_weights",
        "generate",
        "summon_full_params",
        "update_parameters",
    ]
)
_NO_PARAMETERS = frozenset(
    [
        "ReLU",
        "GELU",
        "SiLU",
        "Tanh",
        "Sigmoid",
        "Softmax",
        "LogSoftmax",
        "Dropout",
        "Dropout2d",
        "Flatten",
        "Identity",
        "LeakyReLU",
        "ELU",
        "Softplus",
        "MaxPool2d",
        "AvgPool2d",
        "AdaptiveAvgPool2d",
        "AdaptiveAvgPool1d",
        "MaxPool1d",
        "AvgPool1d",
        "Unflatten",
        "Upsample",
        "ReLU6",
        "Hardswish",
        "Hardtanh",
        "CELU",
        "SELU",
        "Mish",
        "Softsign",
        "PixelShuffle",
        "ZeroPad2d",
        "CosineSimilarity",
        "PairwiseDistance",
        "InstanceNorm2d",
    ]
)
_BATCH_NORM = frozenset(
    ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm", "LazyBatchNorm1d", "LazyBatchNorm2d"]
)
_LAST_DIM = frozenset({"Linear", "LazyLinear", "Bilinear", "NonDynamicallyQuantizableLinear"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"})
_MODULE_BASES = ("Module", "Model", "PyTorchModelHubMixin", "Sequential", "ModuleList", "Net", "Mixin")


def is_module(value: Value) -> bool:
    """Is it a model?"""
    if isinstance(value, Instance):
        return any(base.rpartition(".")[2].endswith(_MODULE_BASES) for base in value.cls.library_bases())
    return isinstance(value, Module)


def leaf_of_unknown(value: Unknown) -> Leaf:
    """The parameters of an unknown model, as one."""
    if value.leaf is None:
        value.leaf = Leaf(value.path, is_guess=True)
    return value.leaf


def leaf_of_instance(value: Instance) -> Leaf:
    """The parameters of a model whose base class is elsewhere, as one."""
    if value.leaf is None:
        value.leaf = Leaf(value.cls.name, is_guess=True)
    return value.leaf


def leaves_of(value: Value, _seen: set[int] | None = None) -> list[Leaf]:
    """The parameters of a model, a layer, or a list of them, each once."""
    seen = set() if _seen is None else _seen
    if id(value) in seen:
        return []
    seen.add(id(value))
    if isinstance(value, Leaf):
        return [value]
    if isinstance(value, Module):
        own = [value.leaf] if value.leaf is not None else []
        return _unique([*own, *(leaf for child in value.children for leaf in leaves_of(child, seen))])
    if isinstance(value, Instance):
        own = [value.leaf] if value.leaf is not None else []
        if not is_module(value) and not own:
            return []
        held = [leaf for attribute in value.attributes.values() for leaf in _registered(attribute, seen)]
        if not own and not held and _has_foreign_base(value):
            own = [leaf_of_instance(value)]
        return _unique([*own, *held])
    if isinstance(value, Unknown):
        return [leaf_of_unknown(value)]
    if isinstance(value, list | tuple):
        return _unique([leaf for element in value for leaf in leaves_of(element, seen)])
    return []


def _has_foreign_base(value: Instance) -> bool:
    return not any(base.rpartition(".")[2] in ("Module", "LightningModule") for base in value.cls.library_bases())


def _registered(attribute: Value, seen: set[int]) -> list[Leaf]:
    if isinstance(attribute, Module | Leaf) or (isinstance(attribute, Instance) and is_module(attribute)):
        return leaves_of(attribute, seen)
    return []


def _unique(leaves: list[Leaf]) -> list[Leaf]:
    return list(dict.fromkeys(leaves))


def has_batch_norm(value: Value) -> bool:
    """Does batch normalisation in training mode take part?"""
    if isinstance(value, Module):
        if value.kind in _BATCH_NORM:
            return value.training
        return any(has_batch_norm(child) for child in value.children)
    if isinstance(value, Instance) and is_module(value):
        return any(has_batch_norm(attribute) for attribute in value.attributes.values())
    return False


def layer(machine: Machine, kind: str, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
    """``nn.Kind(…)``."""
    reduction = losses.layer_reduction(kind, kwargs)
    if reduction is not None:
        return Module(kind, loss=reduction, options=dict(kwargs))
    if kind in ("Sequential", "ModuleList"):
        if len(args) == 1 and isinstance(args[0], dict):
            return Module(kind, list(args[0].values()), attributes=dict(args[0]))
        parts = list(machine.iterate(args[0], node)) if kind == "ModuleList" and args else args
        return Module(kind, parts)
    if kind == "ModuleDict":
        parts_of = args[0] if args and isinstance(args[0], dict) else {}
        return Module(kind, list(parts_of.values()), attributes={str(k): v for k, v in parts_of.items()})
    if kind in ("Parameter", "UninitializedParameter", "Buffer"):
        return parameter(args, kwargs)
    if kind in _NO_PARAMETERS:
        return Module(kind)
    return _with_parameters(kind, args, kwargs)


def parameter(args: list[Value], kwargs: dict[str, Value]) -> Leaf:
    """``nn.Parameter(data)``."""
    data = args[0] if args else kwargs.get("data")
    requires_grad = kwargs.get("requires_grad", args[1] if len(args) > 1 else True)
    return Leaf("parameter", tensors.as_tensor(data).shape, requires_grad is not False)


def _with_parameters(kind: str, args: list[Value], kwargs: dict[str, Value]) -> Module:
    out = next(
        (kwargs[name] for name in ("out_features", "out_channels", "embedding_dim", "hidden_size") if name in kwargs),
        args[1] if len(args) > 1 else None,
    )
    options = {**kwargs, "out": tensors.number_or(out)}
    if kind == "Linear":
        options |= {"in_features": kwargs.get("in_features", args[0] if args else None), "out_features": out}
    if kind in _LAST_DIM or kind.startswith("Conv") or "Norm" in kind:
        bias = kwargs.get("bias", args[2] if kind in _LAST_DIM and len(args) > 2 else True)
        rank = 2 if kind in _LAST_DIM else 1 if "Norm" in kind else 4
        weight = Leaf("weight", (None,) * rank)
        weights = [weight] if bias is False else [weight, Leaf("bias", (None,))]
        return Module(kind, [*weights], options=options)
    if kind in ("Embedding", "EmbeddingBag"):
        return Module(kind, [Leaf("weight", (None, None))], options=options)
    return Module(kind, leaf=Leaf(kind), options=options)


def call_module(machine: Machine, module: Module, args: list[Value], kwargs: dict[str, Value], node: ast.AST) -> Value:
    """``module(*args)``."""
    if module.loss is not None:
        return losses.loss(machine, module.kind, args, {**module.options, **kwargs}, node, reduction=module.loss)
    if module.kind in WRAPPERS and module.children:
        return _call_wrapped(machine, module, args, kwargs, node)
    if module.kind == "Sequential":
        value = args[0] if args else next(iter(kwargs.values()), None)
        for child in module.children:
            value = machine.call(child, [value], {}, node)
        return value
    inputs = [tensors.as_tensor(arg) for arg in [*args, *kwargs.values()] if isinstance(arg, Tensor | Unknown | Leaf)]
    own = [] if machine.no_grad else [leaf for leaf in leaves_of(module) if leaf.requires_grad]
    if own:
        own.append(forward_mark(machine))
    leaves = frozenset(own).union(*(tensor.leaves for tensor in inputs))
    first = inputs[0] if inputs else Tensor()
    result = Tensor(
        _out_shape(module, first.shape),
        frozenset() if machine.no_grad else leaves,
        coupled=any(tensor.coupled for tensor in inputs),
        batch_norm=any(tensor.batch_norm for tensor in inputs) or has_batch_norm(module),
        weight=first.weight if first.is_batch else None,
        is_batch=first.is_batch,
        assumed=first.assumed,
    )
    if module.kind in _RECURRENT:
        return (result, (result, result) if module.kind.startswith("LSTM") else result)
    return (result, result) if module.kind == "MultiheadAttention" else result


def forward_mark(machine: Machine) -> Leaf:
    """The mark that a forward pass leaves in the graph."""
    synced = None
    if machine.in_parallel:
        synced = not machine.no_sync and machine.sync_flag
    return Leaf("pass", is_pass=True, synced=synced)


def _call_wrapped(
    machine: Machine, module: Module, args: list[Value], kwargs: dict[str, Value], node: ast.AST
) -> Value:
    is_parallel = module.kind == "DistributedDataParallel"
    machine.in_parallel += is_parallel
    try:
        return machine.call(module.children[0], args, kwargs, node)
    finally:
        machine.in_parallel -= is_parallel


def _out_shape(module: Module, shape: tuple[int | None, ...] | None) -> tuple[int | None, ...] | None:
    out = module.options.get("out")
    size = out if isinstance(out, int) else None
    if shape is None:
        return None
    if module.kind in _LAST_DIM:
        return (*shape[:-1], size)
    if module.kind == "Embedding":
        return (*shape, size)
    if module.kind.startswith("Conv"):
        return (shape[0], size, *(None for _ in shape[2:])) if len(shape) > 1 else None
    if module.kind == "Flatten":
        return (shape[0], tensors.numel(shape[1:])) if shape else None
    if module.kind in _RECURRENT:
        return (*shape[:-1], None)
    if "Pool" in module.kind or module.kind in ("Unflatten", "Upsample", "PixelShuffle"):
        return (*shape[:2], *(None for _ in shape[2:]))
    return (
        shape
        if module.kind in _NO_PARAMETERS or "Norm" in module.kind
        else (shape[0], *(None for _ in shape[1:]))
        if shape
        else None
    )


def call_unknown(
    machine: Machine, function: Unknown, args: list[Value], kwargs: dict[str, Value], node: ast.AST
) -> Tensor:
    """An unknown model is called: what comes out depends on its parameters and on what goes in."""
    machine.book.guessed = True
    own = frozenset() if machine.no_grad else frozenset({leaf_of_unknown(function), forward_mark(machine)})
    return _mixed(machine, own, [*args, *kwargs.values()])


def _mixed(machine: Machine, own: frozenset[Leaf], values: list[Value]) -> Tensor:
    inputs = [value for value in values if isinstance(value, Tensor)]
    leaves = own.union(*(value.leaves for value in inputs))
    first = inputs[0] if inputs else Tensor(assumed=True)
    return Tensor(
        None, frozenset() if machine.no_grad else leaves, is_batch=True, assumed=True, weight=4.0,
        batch_norm=first.batch_norm,
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


def instance_call(
    machine: Machine, value: Instance, args: list[Value], kwargs: dict[str, Value], node: ast.AST
) -> Value:
    """An object of a class of the file is called."""
    for name in ("__call__", "forward"):
        method = value.cls.lookup(name)
        if isinstance(method, Function):
            return machine.call(method, [value, *args], kwargs, node)
        if method is not MISSING:
            return machine.call(method, args, kwargs, node)
    machine.book.guessed = True
    own = frozenset[Leaf]()
    if is_module(value) and not machine.no_grad:
        own = frozenset({*(leaf for leaf in leaves_of(value) if leaf.requires_grad), forward_mark(machine)})
    return _mixed(machine, own, [*args, *kwargs.values()])


def output(**attributes: Value) -> Bag:
    """A model's output object."""
    return Bag("output", attributes)
