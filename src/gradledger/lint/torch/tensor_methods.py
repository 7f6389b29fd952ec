"""Methods of tensors and parameters."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradledger.ledger import Zero
from gradledger.lint.machine import readings
from gradledger.lint.machine.values import Context, Grad, Leaf, Tensor, Unknown, Value
from gradledger.lint.torch import tensors
from gradledger.lint.torch.backward import backward
from gradledger.lint.torch.shape_methods import (
    _chunk,
    _expand,
    _flatten,
    _gather,
    _permute,
    _repeat,
    _split,
    _squeeze,
    _transpose,
    _unbind,
    _unsqueeze,
    _view,
)
from gradledger.lint.torch.tensors import as_tensor, number_or, numel

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]

_SAME = frozenset(
    {
        "to", "cuda", "cpu", "contiguous", "clone", "float", "half", "bfloat16", "double", "type", "type_as",
        "requires_grad_", "abs", "relu", "sigmoid", "tanh", "exp", "log", "sqrt", "pow", "clamp", "clamp_",
        "clip", "neg", "softmax", "log_softmax", "square", "masked_fill", "pin_memory", "long", "int", "bool",
        "nan_to_num", "rsqrt", "add_", "sub_", "copy_", "fill_", "normal_", "uniform_", "zero_", "t_",
        "expand_as", "register_hook", "register_post_accumulate_grad_hook", "view_as", "relu_", "cos", "sin",
        "floor", "round", "sign", "log1p", "expm1", "erf", "reciprocal", "detach_", "retain_grad",
        "as_subclass", "share_memory_", "coalesce", "to_dense", "logsumexp_", "dropout",
    }
)  # fmt: skip
_CASTS = {"float": "float32", "half": "float16", "bfloat16": "bfloat16", "double": "float64", "long": "int64"}
_ALONG_DIM = frozenset(
    {
        "max", "min", "argmax", "argmin", "any", "all", "prod", "std", "var", "norm", "median", "logsumexp",
        "amax", "amin", "cumsum", "topk", "sort",
    }
)  # fmt: skip


def tensor_method(machine: Machine, value: Value, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``tensor.name(*args, **kwargs)``."""
    tensor = as_tensor(value)
    if isinstance(value, Leaf) and name in ("add_", "sub_", "addcmul_", "copy_"):
        tensors.changed_by_hand(value, args[0] if args else None)
        return value
    handler = _METHODS.get(name)
    if handler is not None:
        return handler(machine, tensor, args, kwargs, node)
    if name in _SAME:
        if name == "cpu":
            readings.host_waits(machine, node)
        return _same(machine, value, tensor, name, args, kwargs)
    if name in _ALONG_DIM:
        return _along_dim(machine, tensor, name, args, kwargs)
    others = [as_tensor(arg).leaves for arg in args if isinstance(arg, Tensor | Leaf)]
    return Tensor(None, tensor.leaves.union(*others), is_batch=tensor.is_batch, coupled=tensor.coupled)


def _same(machine: Machine, value: Value, tensor: Tensor, name: str, args: Args, kwargs: Kwargs) -> Value:
    if name == "requires_grad_":
        wanted = args[0] if args else kwargs.get("requires_grad", True)
        if isinstance(value, Leaf):
            value.requires_grad = bool(wanted) if isinstance(wanted, bool) else True
            return value
        return Leaf("tensor", tensor.shape, is_guess=True) if wanted is True and not tensor.leaves else tensor
    if name in ("register_hook", "retain_grad"):
        return None
    if name == "register_post_accumulate_grad_hook":
        if isinstance(value, Leaf) and args:
            value.hooks.append(args[0])
        return Context("handle")
    if isinstance(value, Leaf) and name in ("to", "cuda", "cpu", "float", "pin_memory", "double"):
        return value
    if name == "clone":
        return tensor.like()
    if name in _CASTS:
        return tensor.like(dtype=_CASTS[name])
    if name in (
        "pow",
        "abs",
        "exp",
        "log",
        "sqrt",
        "sigmoid",
        "tanh",
        "relu",
        "neg",
        "square",
        "softmax",
        "log_softmax",
    ):
        kept = tensor.shape != () or tensor.reduction is None
        return tensor.like(number=None) if kept else tensor.like(number=None, factors=None)
    return tensor


def _along_dim(machine: Machine, tensor: Tensor, name: str, args: Args, kwargs: Kwargs) -> Value:
    dim = kwargs.get("dim", args[0] if args and name not in ("norm", "topk") else None)
    if name in ("all", "any") and tensor.number is not None:
        return tensor
    result = Tensor((), tensor.leaves, coupled=tensor.coupled)
    if dim is None or isinstance(dim, Tensor):
        return result if name not in ("sort", "topk") else (tensor, tensor)
    result = tensors.reduced(tensor.like(reduction=None), "sum", dim=dim)
    if name in ("max", "min", "sort", "topk", "median"):
        return (result, result)
    return result.like(leaves=frozenset()) if name.startswith("arg") else result


def _backward(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    gradient = kwargs.get("gradient", args[0] if args else None)
    retain = kwargs.get("retain_graph", args[1] if len(args) > 1 else kwargs.get("create_graph", False))
    backward(machine, tensor, node, gradient=gradient, retain=retain is True, inputs=kwargs.get("inputs"))
    return None


def _item(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return readings.read(machine, tensor, node)


def _mean(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return tensors.reduced(tensor, "mean", dim=kwargs.get("dim", args[0] if args else None))


def _sum(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return tensors.reduced(tensor, "sum", dim=kwargs.get("dim", args[0] if args else None))


def _detach(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return tensors.detached(tensor)


def _size(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    index = args[0] if args else kwargs.get("dim")
    if tensor.shape is None:
        return _assumed_rows(tensor) if index == 0 else Unknown("size", False)
    if index is None:
        return tuple(Unknown("size") if size is None else size for size in tensor.shape)
    try:
        size = tensor.shape[index]
    except (IndexError, TypeError):
        return Unknown("size")
    return Unknown("size") if size is None else size


def _assumed_rows(tensor: Tensor) -> Value:
    return int(tensor.weight) if tensor.is_batch and tensor.weight else Unknown("size", True)


def _numel(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    count = numel(tensor.shape)
    return Unknown("numel", tensor.shape is None) if count is None else count


def _scaling(op: type[ast.operator]) -> Callable[..., Value]:
    def method(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
        return tensors.arithmetic(machine, op, tensor, args[0] if args else kwargs.get("other"))

    return method


def _scaling_in_place(op: type[ast.operator]) -> Callable[..., Value]:
    def method(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
        changed = tensors.arithmetic(machine, op, tensor, args[0] if args else kwargs.get("other"))
        if isinstance(changed, Tensor):
            tensor.factors, tensor.number = changed.factors, changed.number
        return tensor

    return method


def _tolist(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    readings.host_waits(machine, node)
    return [Unknown("number", True) for _ in range(tensor.rows or 1)]


def _dim(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return Unknown("dim") if tensor.shape is None else len(tensor.shape)


def _new(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return Tensor(tensors.shape_from(args))


def _matmul(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return tensors.arithmetic(machine, ast.MatMult, tensor, args[0] if args else None)


def _is_tensor(machine: Machine, tensor: Tensor, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return False


_METHODS: dict[str, Callable[..., Any]] = {
    "backward": _backward,
    "item": _item,
    "tolist": _tolist,
    "numpy": lambda machine, tensor, *_: Unknown("numpy", True),
    "mean": _mean,
    "sum": _sum,
    "detach": _detach,
    "sample": _detach,
    "size": _size,
    "numel": _numel,
    "nelement": _numel,
    "dim": _dim,
    "ndimension": _dim,
    "view": _view,
    "reshape": _view,
    "flatten": _flatten,
    "transpose": _transpose,
    "t": _transpose,
    "permute": _permute,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "split": _split,
    "chunk": _chunk,
    "unbind": _unbind,
    "div": _scaling(ast.Div),
    "mul": _scaling(ast.Mult),
    "add": _scaling(ast.Add),
    "sub": _scaling(ast.Sub),
    "true_divide": _scaling(ast.Div),
    "multiply": _scaling(ast.Mult),
    "divide": _scaling(ast.Div),
    "div_": _scaling_in_place(ast.Div),
    "mul_": _scaling_in_place(ast.Mult),
    "matmul": _matmul,
    "mm": _matmul,
    "gather": _gather,
    "repeat": _repeat,
    "expand": _expand,
    "new_zeros": _new,
    "new_ones": _new,
    "new_empty": _new,
    "is_floating_point": lambda *_: True,
    "items": lambda machine, tensor, *_: [("key", tensor)],
    "keys": lambda *_: ["key"],
    "values": lambda machine, tensor, *_: [tensor],
    "get": lambda machine, tensor, *_: tensor,
    "pop": lambda machine, tensor, *_: tensor,
}


def grad_method(machine: Machine, grad: Grad, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``parameter.grad.name(…)``."""
    value = number_or(args[0]) if args else None
    if name in ("zero_", "detach_", "requires_grad_"):
        if name == "zero_":
            machine.book.touch(Zero, grad.leaf, machine.location(node))
        return grad
    if name in ("data", "detach", "view", "flatten") and name != "flatten":
        return grad
    if name in ("mul_", "div_", "true_divide_"):
        tensors.adjust(machine, grad.leaf, tensors.factor_of(ast.Mult if name == "mul_" else ast.Div, value), node)
        return grad
    if name == "fill_" and value == 0:
        tensors.zero(machine, grad.leaf, node)
        return grad
    if name.endswith("_") and not name.startswith("__"):
        tensors.adjust(machine, grad.leaf, None, node)
        return grad
    return tensor_method(machine, Tensor(grad.leaf.shape), name, args, kwargs, node)
