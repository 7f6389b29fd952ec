"""Running code in float64 that was written for lower precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LOWER = frozenset({torch.float32, torch.bfloat16, torch.float16})
_CASTS = frozenset({"float", "half", "bfloat16"})
# These work on the tensor itself or on its bits, so a converted copy would not do.
_LEFT_ALONE = frozenset({"__get__", "__set__", "__delete__", "view", "backward", "register_hook", "set_", "data_ptr"})


class _InFloat64(TorchFunctionMode):
    """Turns casts to lower precision, dtype arguments and lower-precision tensors into float64."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        keywords = kwargs or {}
        if name in _CASTS:
            return args[0].double()
        if name in _LEFT_ALONE:
            return func(*args, **keywords)
        changes_first = name.endswith("_") and not name.endswith("__")
        converted = [arg if at == 0 and changes_first else _converted(arg) for at, arg in enumerate(args)]
        return func(*converted, **{key: _converted(value) for key, value in keywords.items()})


def _converted(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype in _LOWER else value
    if isinstance(value, torch.dtype):
        return torch.float64 if value in _LOWER else value
    if type(value) in (list, tuple):
        return type(value)(_converted(each) for each in value)
    return value


@contextmanager
def in_float64() -> Iterator[None]:
    """Inside, what torch computes is computed in float64, whatever the code casts to.

    Example:
        >>> import torch
        >>> with in_float64():
        ...     torch.softmax(torch.ones(2, dtype=torch.float64).float(), dim=0, dtype=torch.float32).dtype
        torch.float64
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _InFloat64():
            yield
    finally:
        torch.set_default_dtype(default)
