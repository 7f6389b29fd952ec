"""The device of a run, and of each rank."""

from __future__ import annotations

import os

import torch

from gradledger.errors import UserError


def choose_device(name: str, num_ranks: int = 1) -> torch.device:
    """The device that a configuration names; over several ranks each has a GPU of its own, or all use the CPU.

    Args:
        name: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        num_ranks: The processes that train together.

    Raises:
        UserError: The machine has no such device, or not one for each of its ranks.
    """
    return _alone(name) if num_ranks == 1 else _of_rank(name)


def _alone(name: str) -> torch.device:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, is_there in available.items() if is_there))
    device = torch.device(name)
    there = available[device.type] and (device.type != "cuda" or (device.index or 0) < torch.cuda.device_count())
    if not there:
        usable = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise UserError(f"device is {name!r}, which this machine does not have: choose one of auto, {usable}")
    return device


def _of_rank(name: str) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise UserError(f"device is {name!r}, but several ranks cannot share it: choose one of auto, cpu, cuda")
    index, num_devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= num_devices:
        raise UserError(
            f"device is {name!r}, but this machine has {num_devices} CUDA devices, and rank {index} of it finds none: "
            "start as many processes as there are devices, or choose device: cpu"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
