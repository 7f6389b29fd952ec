"""Models and layers: which parameters they own, what their methods do, what calling them gives."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from gradledger.lint.machine.values import MISSING, Bag, Function, Instance, Leaf, Module, Tensor, Unknown, Value
from gradledger.lint.torch import losses, tensors

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

WRAPPERS = frozenset(
    ["DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "compile", "AveragedModel"]
)
_NO_PARAMETERS = frozenset(
    {
        "ReLU", "GELU", "SiLU", "Tanh", "Sigmoid", "Softmax", "LogSoftmax", "Dropout", "Dropout2d", "Flatten",
        "Identity", "LeakyReLU", "ELU", "Softplus", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d",
        "AdaptiveAvgPool1d", "MaxPool1d", "AvgPool1d", "Unflatten", "Upsample", "ReLU6", "Hardswish",
        "Hardtanh", "CELU", "SELU", "Mish", "Softsign", "PixelShuffle", "ZeroPad2d", "CosineSimilarity",
        "PairwiseDistance", "InstanceNorm2d",
    }
)  # fmt: skip
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
