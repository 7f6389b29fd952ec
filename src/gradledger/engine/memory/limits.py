"""Memory: noticing that it ran out, giving it back, and how much there is."""

from __future__ import annotations

import gc
import re
import sys
import traceback
from pathlib import Path

import torch
from torch import Tensor, nn

from gradledger.engine.rewinding import BufferHistory, Generators
from gradledger.errors import UserError

_ALLOCATOR_MESSAGES = (
    "DefaultCPUAllocator",
    "can't allocate memory",
    "out of memory",
    "bad_alloc",
)


class DoesNotFitError(UserError):
    """Not even one sample fits in memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: an accelerator's, the CPU allocator's, or Python's own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _ALLOCATOR_MESSAGES)


def bytes_asked(error: BaseException) -> int | None:
    """The size of the allocation that failed, where the error tells it."""
    match = re.search(r"allocate ([\d.]+) (bytes|KiB|MiB|GiB|TiB)", str(error), re.IGNORECASE)
    if match is None:
        return None
    units = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
    return int(float(match[1]) * units[match[2].lower()])


def release(error: BaseException, device: torch.device, *, is_handled: bool = True) -> None:
    """Give back what an abandoned computation holds: the frames of its error, reference cycles, the device's cache.

    An error that goes on to the user (not ``is_handled``) keeps its traceback, without the values in it.
    """
    chained: BaseException | None = error
    while chained is not None:
        traceback.clear_frames(chained.__traceback__)
        if is_handled:
            chained.__traceback__ = None
        chained = chained.__cause__ or chained.__context__
    torch.clear_autocast_cache()
    gc.collect()
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()


def available_bytes(device: torch.device) -> int:
    """The bytes that can still be allocated: free memory, or what a limit on the process leaves of it."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device)
        share = int(torch.cuda.get_per_process_memory_fraction(device) * total) - reserved
        return max(0, min(free, share) + reserved - torch.cuda.memory_allocated(device))
    bounds = [_free_in_machine(), *_left_by_resource_limits(), *_left_by_cgroup()]
    return max(0, min(bound for bound in bounds if bound is not None))


def readable_bytes(num_bytes: float) -> str:
    """``1.5 GB`` and the like, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(num_bytes) < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


class Snapshot:
    """What forwards change beside gradients, as it was: random generators and the model's buffers.

    Args:
        model: Its buffers are copied.
        device: The device whose generator the forwards use.
        only_torch: Leave out Python's and NumPy's generators.
    """

    def __init__(self, model: nn.Module, device: torch.device, *, only_torch: bool = False) -> None:
        self._generators = Generators([device], only_torch=only_torch)
        self._history = BufferHistory(model)
        self._buffers = self._history.take()

    def is_current(self) -> bool:
        """Whether nothing has changed since."""
        present = self._history.take()
        is_same = present.keys() == self._buffers.keys() and all(present[n] is self._buffers[n] for n in present)
        return is_same and self._generators.is_current()

    def restore(self) -> None:
        """Go back to it."""
        self._generators.restore()
        self._history.restore(self._buffers)


def _free_in_machine() -> int | None:
    meminfo = _read("/proc/meminfo")
    match = re.search(r"MemAvailable:\s+(\d+) kB", meminfo or "")
    return None if match is None else int(match[1]) * 1024


def _left_by_resource_limits() -> list[int]:
    if sys.platform == "win32":
        return []
    import resource

    status = _read("/proc/self/status") or ""
    left = []
    for limit, field in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(limit)
        match = re.search(rf"{field}:\s+(\d+) kB", status)
        if soft != resource.RLIM_INFINITY and match is not None:
            left.append(soft - int(match[1]) * 1024)
    return left


def _left_by_cgroup() -> list[int]:
    used, limit = _read("/sys/fs/cgroup/memory.current"), _read("/sys/fs/cgroup/memory.max")
    if used is None or limit is None or limit.strip() == "max":
        return []
    return [int(limit) - int(used)]


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return None


def one_sample_does_not_fit(error: BaseException, device: torch.device, parameters: list[Tensor]) -> DoesNotFitError:
    """The error of a micro-batch of one sample, with its bytes and what would help."""
    asked = bytes_asked(error)
    kept = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    what = f"an allocation of {readable_bytes(asked)} failed" if asked is not None else "an allocation failed"
    return DoesNotFitError(
        f"not even a micro-batch of 1 sample fits in the memory of {device}: {what} with "
        f"{readable_bytes(available_bytes(device))} available; the parameters take {readable_bytes(kept)}, their "
        "gradients as much again, the optimizer's state comes on top. What would help: activation checkpointing "
        "(checkpointing=True), precision='bf16-mixed', shorter samples, an optimizer with less state, a smaller "
        "model"
    )
