"""Tensors that an autograd node has kept, read without disturbing them.

A kept tensor may be packed: by activation checkpointing, by offloading, by the user's own hooks. Unpacking it runs
their code, which for a checkpoint is the forward once more, with its batch statistics and its counters. So what is
packed is unknown.
"""

from __future__ import annotations

from typing import Any


def saved(node: Any, name: str) -> Any:
    """What a node keeps under a name such as ``self``; None where it keeps nothing, keeps it packed or has let it go.

    Example:
        >>> import torch
        >>> node = (torch.ones(2, requires_grad=True) / 4).grad_fn
        >>> saved(node, "other")
        tensor(4)
    """
    packed = getattr(node, f"_raw_saved_{name}", None)
    if packed is not None and packed.unpack_hook is not None:
        return None
    try:
        return getattr(node, f"_saved_{name}", None)
    except RuntimeError:  # a backward has freed it
        return None
