"""Random numbers pinned to samples: a sample draws the same ones in the whole batch as in its micro-batch.

Dropout draws its mask for whatever is in front of it, so a batch and its parts get unlike masks, and their gradients
cannot be compared. Here every random call of a forward is made sample by sample, from a seed of the call and of the
sample's place in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_FACTORIES = frozenset({"rand", "randn", "randint"})
_PER_ELEMENT = frozenset(
    {"bernoulli", "bernoulli_", "native_dropout", "rand_like", "randn_like", "randint_like", "uniform_", "normal_",
     "exponential_", "random_", "log_normal_", "geometric_", "cauchy_", "multinomial", "poisson"}
)  # fmt: skip
_PRIME = 1_000_003


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the samples are in the result of a random call.

    Args:
        dim: The dimension that holds them, or None where one draw serves all samples.
        rows: Rows of that dimension per sample.
    """

    dim: int | None
    rows: int = 1


class RandomCalls(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own base
    """Lists the shapes of the random calls of a forward; None for one whose draws cannot be pinned."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: list[tuple[int, ...] | None] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if is_random(func, args, kwargs or {}):
            first = result[0] if isinstance(result, tuple) else result
            can_pin = _name(func) in _PER_ELEMENT | _FACTORIES and isinstance(first, Tensor)
            self.shapes.append(tuple(first.shape) if can_pin else None)
        return result


class PinnedCalls(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own base
    """Makes the random calls of one forward sample by sample.

    Args:
        layouts: The layout of each random call of a forward, in order.
        seed: What all seeds are derived from.
        first_sample: Place in the whole batch of the first sample.
        num_samples: Samples in this forward.
    """

    def __init__(self, layouts: Sequence[Layout], *, seed: int, first_sample: int, num_samples: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layouts = layouts
        self._seed = seed
        self._first_sample = first_sample
        self._num_samples = num_samples
        self._num_calls = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        if not is_random(func, args, keywords):
            return func(*args, **keywords)
        call = self._num_calls
        self._num_calls += 1
        layout = self._layouts[call] if call < len(self._layouts) else Layout(None)
        if layout.dim is None:
            self._reseed(call, -1)
            return _drawn(func, args, keywords)
        blocks = []
        for sample in range(self._num_samples):
            self._reseed(call, self._first_sample + sample)
            blocks.append(_drawn(func, _block(func, args, layout, sample), keywords))
        if _name(func).endswith("_"):
            return args[0]
        if isinstance(blocks[0], tuple):
            return tuple(torch.cat(column, layout.dim) for column in zip(*blocks, strict=True))
        return torch.cat(blocks, layout.dim)

    def _reseed(self, call: int, sample: int) -> None:
        torch.manual_seed(((self._seed * _PRIME + call) * _PRIME + sample + 1) % 2**63)


def _drawn(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A random call's result, the same in every floating-point type: it is drawn in float64 and rounded."""
    name = _name(func)
    if name == "native_dropout":
        inputs, probability, is_training = args[0], args[1], args[2] is not False
        kept = torch.empty_like(inputs, dtype=torch.float64).bernoulli_(1 - probability if is_training else 1.0)
        return inputs * (kept / max(1 - probability, 1e-12) if is_training else kept).to(inputs.dtype), kept.bool()
    if name in _FACTORIES:
        dtype = kwargs.get("dtype") or (torch.int64 if name == "randint" else torch.get_default_dtype())
        return func(*args, **{**kwargs, "dtype": torch.float64 if dtype.is_floating_point else dtype}).to(dtype)
    first = args[0]
    if not first.is_floating_point():
        return func(*args, **kwargs)
    wide = [arg.double() if isinstance(arg, Tensor) and arg.is_floating_point() else arg for arg in args]
    if name.endswith("_"):
        return first.copy_(func(*wide, **kwargs))
    result = func(*wide, **{key: value for key, value in kwargs.items() if key != "dtype"})
    return result.to(kwargs.get("dtype") or (first.dtype if result.is_floating_point() else result.dtype))


def is_random(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call draws random numbers."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    for at, argument in enumerate(func._schema.arguments):
        if argument.name in ("dropout_p", "dropout"):
            return bool(args[at] if at < len(args) else kwargs.get(argument.name, 0.0))
    return True


def layouts_of(
    whole: Sequence[tuple[int, ...] | None], part: Sequence[tuple[int, ...] | None], num_samples: int, num_in_part: int
) -> list[Layout] | None:
    """Where the samples are in each random call, from its shapes on the whole batch and on a part; None if unclear.

    Example:
        >>> layouts_of([(5, 8, 3)], [(5, 2, 3)], num_samples=8, num_in_part=2)
        [Layout(dim=1, rows=1)]
    """
    if len(whole) != len(part):
        return None
    found = [_layout(*shapes, num_samples, num_in_part) for shapes in zip(whole, part, strict=True)]
    return None if any(layout is None for layout in found) else [layout for layout in found if layout is not None]


def _layout(
    whole: tuple[int, ...] | None, part: tuple[int, ...] | None, num_samples: int, num_in_part: int
) -> Layout | None:
    if whole is None or part is None or len(whole) != len(part):
        return None
    unlike = [dim for dim in range(len(whole)) if whole[dim] != part[dim]]
    if not unlike:
        return Layout(None)
    dim = unlike[0]
    rows, rest = divmod(whole[dim], num_samples)
    return Layout(dim, rows) if len(unlike) == 1 and not rest and part[dim] == rows * num_in_part else None


def _block(func: Any, args: tuple[Any, ...], layout: Layout, sample: int) -> tuple[Any, ...]:
    """The arguments of a random call for one sample."""
    assert layout.dim is not None
    if _name(func) in _FACTORIES:
        at = next(i for i, arg in enumerate(args) if isinstance(arg, list | tuple | torch.Size))
        size = [layout.rows if dim == layout.dim else length for dim, length in enumerate(args[at])]
        return (*args[:at], size, *args[at + 1 :])
    shape = args[0].shape
    start = sample * layout.rows
    return tuple(
        arg.narrow(layout.dim, start, layout.rows) if isinstance(arg, Tensor) and arg.shape == shape else arg
        for arg in args
    )


def _name(func: Any) -> str:
    return str(func._schema.name.rpartition("::")[2])
