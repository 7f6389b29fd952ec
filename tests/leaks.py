"""Notices what a test leaves behind: patched torch functions, optimizer hooks, environment, threads, global modes."""

from __future__ import annotations

import os
import threading
from typing import Any

# Everything that an audit replaces, and what others may be tempted to.
PATCHABLE = [
    ("torch", "Tensor", ("backward", "item", "grad", "data", "div_", "mul_", "zero_", "__truediv__")),
    ("torch", "autograd", ("backward", "grad")),
    ("torch.optim", "Optimizer", ("zero_grad", "step", "__init__", "add_param_group")),
    ("torch.nn", "Module", ("zero_grad", "__call__", "forward")),
    ("torch.nn", "utils", ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm")),
    ("torch.amp", "GradScaler", ("scale", "unscale_", "step", "update")),
    ("torch.optim.lr_scheduler", "LRScheduler", ("step", "__init__")),
    ("torch.utils.data", "DataLoader", ("__iter__",)),
    ("torch.nn.parallel", "DistributedDataParallel", ("no_sync", "forward")),
]
# Set by libraries for themselves when they are first imported or used; they are the same from then on.
_ENVIRONMENT_OF_LIBRARIES = (
    "PYTEST_", "TORCHINDUCTOR_", "KMP_", "TOKENIZERS_", "PL_", "LIGHTNING", "TF_", "CUBLAS_", "ACCELERATE_", "GRPC_",
    "CUDA_", "PYTORCH_", "TRITON_", "NODE_", "LOCAL_", "MASTER_", "RANK", "WORLD_",
)  # fmt: skip
# "Dummy-1" and the like are threads of a library's own, not Python's, that have called Python once.
_THREADS_OF_LIBRARIES = (
    "Dummy-", "pytest_timeout", "execnet", "tqdm", "pydevd", "asyncio_", "ThreadPoolExecutor", "tensorboard",
)  # fmt: skip


def snapshot() -> dict[str, Any]:
    """What must be the same after a test. Torch is looked at only where it is loaded already."""
    state: dict[str, Any] = {
        "environment": {k: v for k, v in os.environ.items() if not k.startswith(_ENVIRONMENT_OF_LIBRARIES)},
        "working folder": os.getcwd(),
        "threads": {t.name for t in threading.enumerate() if t.is_alive() and not _is_known(t)},
    }
    import sys

    if "torch" in sys.modules:
        state.update(_torch_state())
    return state


def _is_known(thread: threading.Thread) -> bool:
    return (thread.daemon and thread.name.startswith("Thread-")) or thread.name.startswith(_THREADS_OF_LIBRARIES)


def _torch_state() -> dict[str, Any]:
    import torch
    from torch.optim import optimizer

    state: dict[str, Any] = {}
    for module, owner, names in PATCHABLE:
        target = getattr(__import__(module, fromlist=[owner]), owner)
        for name in names:
            state[f"{module}.{owner}.{name}"] = getattr(target, name, None)
    state["global optimizer hooks"] = (
        tuple(optimizer._global_optimizer_pre_hooks), tuple(optimizer._global_optimizer_post_hooks)
    )  # fmt: skip
    state["global module hooks"] = (
        tuple(torch.nn.modules.module._global_forward_hooks), tuple(torch.nn.modules.module._global_forward_pre_hooks)
    )  # fmt: skip
    state["gradient mode"] = torch.is_grad_enabled()
    state["autocast"] = torch.is_autocast_enabled("cpu")
    state["default dtype"] = torch.get_default_dtype()
    state["deterministic algorithms"] = torch.are_deterministic_algorithms_enabled()
    return state


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """One line for each thing that is not as it was."""
    return [
        f"{name}: {before[name]!r} became {after[name]!r}"
        for name in before
        if name in after and not _same(before[name], after[name])
    ]


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, set):
        return after <= before
    return bool(before == after)
