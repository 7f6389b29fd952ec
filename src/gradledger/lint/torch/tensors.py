"""Tensors: arithmetic and methods, as far as shapes, graphs and losses go."""

from __future__ import annotations

import ast
import math
from typing import TYPE_CHECKING, Any

from gradledger.ledger import Adjust, Zero
from gradledger.lint.machine.values import Grad, Leaf, Tensor, Unknown, Value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gradledger.lint.machine.machine import Machine

Shape = tuple[int | None, ...]


def as_tensor(value: Value) -> Tensor:
    """A value as a tensor."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Leaf):
        return Tensor(value.shape, frozenset({value}) if value.requires_grad else frozenset(), dtype=value.dtype)
    if isinstance(value, Grad):
        return Tensor(value.leaf.shape, gradient_of=value.leaf)
    if isinstance(value, Unknown):
        return Tensor(None, value.leaves, factors=None)
    if isinstance(value, bool | int | float):
        return Tensor((), number=float(value))
    return Tensor()


def joint_leaves(values: Any) -> frozenset[Leaf]:
    """The parameters that the graphs of several tensors reach."""
    empty: frozenset[Leaf] = frozenset()
    return empty.union(*(as_tensor(v).leaves for v in values if isinstance(v, Tensor | Leaf)))


def window_mark() -> Leaf:
    """The mark of a tensor that holds rows of the window's other micro-batches beside fresh ones."""
    return Leaf("window", is_pass=True, spans_window=True)


def number_or(value: Value) -> Value:
    """The number that a tensor is known to hold, else the value itself."""
    return value.number if isinstance(value, Tensor) and value.number is not None else value


def numel(shape: Shape | None) -> int | None:
    """Elements of a shape."""
    if shape is None or any(size is None for size in shape):
        return None
    return math.prod(size for size in shape if size is not None)


def broadcast(left: Shape | None, right: Shape | None) -> Shape | None:
    """The shape of an elementwise result."""
    if left is None or right is None:
        return None
    longer, shorter = (left, right) if len(left) >= len(right) else (right, left)
    offset = len(longer) - len(shorter)
    sizes: list[int | None] = list(longer[:offset])
    for a, b in zip(longer[offset:], shorter, strict=True):
        sizes.append(b if a == 1 else a)
    return tuple(sizes)


def arithmetic(machine: Machine, op: type[ast.operator], left: Value, right: Value) -> Value:
    """``left op right`` where one is a tensor."""
    a, b = number_or(left), number_or(right)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return _of_numbers(op, a, b)
    if op in (ast.Mult, ast.Div):
        if _is_number_like(a) and op is ast.Mult:
            return scaled(as_tensor(right), a)
        if _is_number_like(b):
            return scaled(as_tensor(left), b, divide=op is ast.Div)
    x, y = as_tensor(left), as_tensor(right)
    if op in (ast.Add, ast.Sub):
        return added(x, y, sign=1.0 if op is ast.Add else -1.0)
    if op is ast.MatMult:
        return Tensor(_product_shape(x.shape, y.shape), x.leaves | y.leaves, coupled=x.coupled or y.coupled)
    if op in (ast.Mult, ast.Div) and y.reduction is None and not y.leaves and y.shape == () and x.reduction is not None:
        return x.like(factors=None, number=None)
    coupled, batch_norm = x.coupled or y.coupled, x.batch_norm or y.batch_norm
    result = Tensor(broadcast(x.shape, y.shape), x.leaves | y.leaves, coupled=coupled, batch_norm=batch_norm)
    gradient_of = x.gradient_of or y.gradient_of
    return result if gradient_of is None else result.like(gradient_of=gradient_of, factors=None)


def _of_numbers(op: type[ast.operator], a: float, b: float) -> Value:
    from gradledger.lint.machine.operators import OPERATORS

    try:
        return Tensor((), number=float(OPERATORS[op](a, b)))
    except (ZeroDivisionError, KeyError, TypeError, OverflowError):
        return Tensor(())


def _is_number_like(value: Value) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Unknown) and not value.leaves)


def _product_shape(left: Shape | None, right: Shape | None) -> Shape | None:
    if not left or not right:
        return None
    return (*left[:-1], right[-1]) if len(right) > 1 else left[:-1]


def scaled(tensor: Tensor, by: Value, *, divide: bool = False) -> Tensor:
    """A tensor multiplied (or divided) by a number; an unknown number leaves the scale unknown."""
    if not isinstance(by, int | float) or tensor.factors is None or (divide and by == 0):
        return tensor.like(factors=None, number=None)
    factor = abs(1.0 / by if divide else float(by))
    if factor == 1.0:
        return tensor.like(number=None)
    number = None if tensor.number is None else tensor.number * factor
    return tensor.like(factors=(factor, *tensor.factors), number=number)


def added(left: Tensor, right: Tensor, *, sign: float = 1.0) -> Tensor:
    """A sum of tensors; of losses it keeps the factor that all terms share."""
    leaves = left.leaves | right.leaves
    if _is_plain_number(right):
        return left.like(number=None, leaves=leaves)
    if _is_plain_number(left):
        return (right if sign > 0 else scaled(right, -1.0)).like(number=None, leaves=leaves)
    if left.reduction is not None and left.reduction == right.reduction:
        if not leaves and left.scale is not None and right.scale is not None:
            return left.like(factors=(left.scale + right.scale,), count=left.count + right.count)
        return left.like(
            leaves=leaves, factors=_shared_factors(left, right), number=None, assumed=left.assumed or right.assumed,
            weight=left.weight if left.weight is not None else right.weight,
            coupled=left.coupled or right.coupled, scaler=left.scaler or right.scaler,
            batch_norm=left.batch_norm or right.batch_norm,
        )  # fmt: skip
    main = left if left.reduction is not None else right
    if main.reduction is not None and left.shape in ((), None) and right.shape in ((), None):
        return main.like(leaves=leaves, number=None)
    coupled, batch_norm = left.coupled or right.coupled, left.batch_norm or right.batch_norm
    return Tensor(broadcast(left.shape, right.shape), leaves, coupled=coupled, batch_norm=batch_norm)


def _is_plain_number(tensor: Tensor) -> bool:
    return not tensor.leaves and tensor.reduction is None and tensor.shape in ((), None)


def _shared_factors(left: Tensor, right: Tensor) -> tuple[float, ...] | None:
    """The factors that all terms of a sum share: a term's own weight is a part of the loss."""
    if left.factors is None or right.factors is None:
        return None
    rest = list(right.factors)
    shared: list[float] = []
    for factor in left.factors:
        match = next((one for one in rest if math.isclose(one, factor, rel_tol=1e-9)), None)
        if match is not None:
            rest.remove(match)
            shared.append(factor)
    return tuple(shared)


def reduced(tensor: Tensor, how: str, *, dim: Value = None) -> Tensor:
    """``tensor.mean()`` or ``tensor.sum()``."""
    if tensor.number is not None and dim is None:
        return tensor
    if tensor.is_loss_by_name and how != "mean":
        tensor = tensor.like(reduction=None, is_loss_by_name=False)
    if dim is not None:
        shape = tensor.shape
        if shape is not None and isinstance(dim, int) and -len(shape) <= dim < len(shape):
            sizes = list(shape)
            del sizes[dim]
            shape = tuple(sizes)
        else:
            shape = None
        return tensor.like(shape=shape, number=None)
    if tensor.shape == () or tensor.reduction is not None:
        return tensor.like(shape=(), number=None)
    count = numel(tensor.shape)
    weight = float(count) if count is not None else tensor.weight
    assumed = count is None
    unit = "samples" if tensor.shape is None or len(tensor.shape) < 2 else "elements"
    return tensor.like(
        shape=(), reduction=how, weight=4.0 if weight is None else weight, unit=unit, assumed=assumed, number=None
    )  # fmt: skip


def loss_by_name(tensor: Tensor) -> Tensor:
    """What an unknown model gave and the source calls a loss: by custom, a mean."""
    is_unread = tensor.is_batch and tensor.assumed and tensor.shape is None and tensor.reduction is None
    if not is_unread or not tensor.leaves or tensor.factors != ():
        return tensor
    return tensor.like(reduction="mean", weight=4.0, is_loss_by_name=True)


def detached(tensor: Value) -> Tensor:
    """Without its graph."""
    return as_tensor(tensor).like(leaves=frozenset())


def factor_of(op: type[ast.operator], value: Value) -> float | None:
    """The factor that ``x op= value`` multiplies by; None if unknown or no multiplication."""
    value = number_or(value)
    if not isinstance(value, int | float):
        return None
    if op is ast.Mult:
        return float(value)
    if op is ast.Div and value:
        return 1.0 / value
    return None


def adjust(machine: Machine, leaf: Leaf, factor: float | None, node: ast.AST) -> None:
    """``.grad`` was changed by hand."""
    if factor == 0.0:
        machine.book.touch(Zero, leaf, machine.location(node))
    else:
        machine.book.touch(Adjust, leaf, machine.location(node), factor=factor)


def changed_by_hand(leaf: Leaf, by: Value) -> None:
    """A parameter was changed in place; if by its own gradient, zeroing that gradient loses nothing."""
    if isinstance(by, Grad) or (isinstance(by, Tensor) and by.gradient_of is not None):
        leaf.is_spent = True


def forget(leaves: Iterable[Leaf]) -> bool:
    """Gradients are zeroed; True where all of them had been used by hand."""
    known = list(leaves)
    spent = bool(known) and all(leaf.is_spent for leaf in known)
    for leaf in known:
        leaf.has_grad = leaf.is_spent = False
    return spent


def zero(machine: Machine, leaf: Leaf, node: ast.AST) -> None:
    """``.grad`` was set to None or to zero."""
    if leaf.has_grad:
        leaf.has_grad = False
        machine.book.touch(Zero, leaf, machine.hook_location or machine.location(node))


def shape_from(args: list[Value]) -> Shape | None:
    """The shape that size arguments spell: ``(3, 4)``, ``3, 4`` or unknown."""
    if len(args) == 1 and isinstance(args[0], list | tuple):
        args = list(args[0])
    sizes: list[int | None] = []
    for size in args:
        size = number_or(size)
        if isinstance(size, int | float) and not isinstance(size, bool):
            sizes.append(int(size))
        elif isinstance(size, Unknown):
            sizes.append(None)
        else:
            return None
    return tuple(sizes)


def reshaped(tensor: Tensor, args: list[Value]) -> Tensor:
    """``tensor.view(…)``."""
    wanted = shape_from(args)
    if wanted is None:
        return tensor.like(shape=None)
    total = numel(tensor.shape)
    if -1 in wanted:
        rest = numel(tuple(size for size in wanted if size != -1))
        size = total // rest if total is not None and rest else None
        wanted = tuple(size if s == -1 else s for s in wanted)
    return tensor.like(shape=wanted)


def sliced(tensor: Tensor, key: Value) -> Tensor:
    """``tensor[key]``."""
    if tensor.is_batch or tensor.shape is None:
        return tensor
    keys: list[Any] = list(key) if isinstance(key, tuple) else [key]
    sizes: list[int | None] = []
    left = list(tensor.shape)
    for part in keys:
        if part is None:
            sizes.append(1)
        elif part is Ellipsis:
            keep = len(left) - (len(keys) - keys.index(part) - 1)
            sizes += left[:keep]
            left = left[keep:]
        elif not left:
            return tensor.like(shape=None, number=None)
        else:
            size = left.pop(0)
            kept = _kept(size, part)
            if kept is not _DROPPED:
                sizes.append(kept)
    return tensor.like(shape=(*sizes, *left), number=None)


_DROPPED: Any = object()


def _kept(size: int | None, part: Value) -> Any:
    if isinstance(part, slice):
        bounds = (part.start, part.stop, part.step)
        if size is None or any(not isinstance(b, int | type(None)) for b in bounds):
            return None
        return len(range(*part.indices(size)))
    if isinstance(part, int):
        return _DROPPED
    if isinstance(part, Tensor):
        return part.rows if part.shape != () else _DROPPED
    if isinstance(part, list | range):
        return len(part)
    return None if isinstance(part, Unknown) and not part.varying else _DROPPED
