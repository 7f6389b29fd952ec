"""Remembering micro-batch sizes across runs, in the user's cache directory."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gradledger


@dataclass(frozen=True, slots=True)
class RememberedSize:
    """A micro-batch size with the memory model that it came from.

    Args:
        size: Samples, or padded tokens.
        fixed_bytes: Of the model's line.
        bytes_per_size: Of the model's line.
        limit_bytes: The room that it was chosen for, where a larger size would have been tried with more; else None.
    """

    size: int
    fixed_bytes: float
    bytes_per_size: float
    limit_bytes: float | None


def cache_directory() -> Path:
    """``$XDG_CACHE_HOME/gradledger``, or ``~/.cache/gradledger``."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "gradledger"


def cache_key(model: nn.Module, parameters: Sequence[Tensor], *details: Any) -> str:
    """A key that changes whenever a remembered size may no longer be right.

    Args:
        model: Its class and the shapes, types and training flags of its parts count.
        parameters: The trained ones; the device is theirs.
        details: Anything else that the size depends on.
    """
    device = parameters[0].device
    is_cuda = device.type == "cuda"
    facts = [
        gradledger.__version__,
        torch.__version__,
        torch.cuda.get_device_name(device) if is_cuda else f"{device.type} × {torch.get_num_threads()}",
        f"{type(model).__module__}.{type(model).__qualname__}",
        [(name, list(p.shape), str(p.dtype), p.requires_grad) for name, p in model.named_parameters()],
        [module.training for module in model.modules()],
        *details,
    ]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:32]


def recall(key: str) -> RememberedSize | None:
    """What was remembered under a key; None where nothing readable was."""
    try:
        values = json.loads(_path(key).read_text(encoding="utf-8"))
        limit = values["limit_bytes"]
        found = RememberedSize(
            int(values["size"]),
            float(values["fixed_bytes"]),
            float(values["bytes_per_size"]),
            None if limit is None else float(limit),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.size >= 1 else None


def remember(key: str, found: RememberedSize) -> None:
    """Keep a size for later runs. A cache directory that cannot be written is no error: the next run measures again."""
    path = _path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(found), file)
        os.replace(name, path)
    except OSError:
        return


def _path(key: str) -> Path:
    return cache_directory() / "micro-batch-sizes" / f"{key}.json"
