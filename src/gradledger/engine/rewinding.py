"""Going back: random generators and buffers as they were before a forward, so that it can be run again."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

import numpy
import torch
from torch import Tensor, nn

BufferValues = dict[str, Tensor]
"""The values that a model's buffers had at one moment, by name."""


class Generators:
    """The states of torch's random generators, and of Python's and NumPy's, at the moment this is made.

    Args:
        devices: Devices whose generators are held beside the CPU's.
        only_torch: Leave out Python's and NumPy's, which take 40 µs to copy.
    """

    def __init__(self, devices: Iterable[torch.device], *, only_torch: bool = False) -> None:
        self._cpu = torch.get_rng_state()
        self._accelerators = {
            each: torch.get_device_module(each).get_rng_state(each)
            for each in devices
            if each.type not in ("cpu", "meta")
        }
        self._others: Any = None if only_torch else (random.getstate(), numpy.random.get_state())

    def state_dict(self) -> dict[str, Any]:
        """The states as tensors and plain data."""
        assert self._others is not None
        python, (kind, keys, *rest) = self._others
        return {
            "torch": self._cpu,
            "accelerators": {str(device): state for device, state in self._accelerators.items()},
            "python": python,
            "numpy": (kind, torch.tensor(keys, dtype=torch.int64), *rest),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Generators:
        """The states that :meth:`state_dict` gave."""
        self = cls.__new__(cls)
        self._cpu = state["torch"].cpu()
        self._accelerators = {torch.device(name): each.cpu() for name, each in state["accelerators"].items()}
        version, numbers, gauss = state["python"]
        kind, keys, *rest = state["numpy"]
        self._others = (version, tuple(numbers), gauss), (kind, keys.numpy().astype(numpy.uint32), *rest)
        return self

    def is_current(self) -> bool:
        """Whether no random number of torch's was drawn since."""
        states = [(torch.get_rng_state(), self._cpu)]
        states += [(torch.get_device_module(at).get_rng_state(at), state) for at, state in self._accelerators.items()]
        return all(torch.equal(present, state) for present, state in states)

    def restore(self) -> None:
        """Set the generators back to these states."""
        torch.set_rng_state(self._cpu)
        for device, state in self._accelerators.items():
            torch.get_device_module(device).set_rng_state(state, device)
        if self._others is not None:
            random.setstate(self._others[0])
            numpy.random.set_state(self._others[1])


class BufferHistory:
    """Takes and restores the values of a model's buffers; what did not change is copied once.

    Example:
        >>> import torch
        >>> norm = torch.nn.BatchNorm1d(2)
        >>> history = BufferHistory(norm)
        >>> before = history.take()
        >>> _ = norm(torch.ones(3, 2))
        >>> history.restore(before)
        >>> norm.num_batches_tracked.item(), norm.running_mean.tolist()
        (0, [0.0, 0.0])
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._known: BufferValues = {}

    def take(self) -> BufferValues:
        """The present values.

        They are compared with the last known ones, with one fetch from the device: a buffer's version does not say
        whether it changed, since BatchNorm's kernels write to the running statistics without raising it.
        """
        if not any(module._buffers for module in self._model.modules()):
            return {}
        buffers = dict(self._model.named_buffers())
        known = [name for name, buffer in buffers.items() if _is_alike(self._known.get(name), buffer)]
        is_same = [(self._known[name] == buffers[name]).all() for name in known]
        fetched = torch.stack([each.to(is_same[0].device) for each in is_same]).tolist() if known else []
        same = {name for name, is_so in zip(known, fetched, strict=True) if is_so}
        self._known = {n: self._known[n] if n in same else buffer.detach().clone() for n, buffer in buffers.items()}
        return dict(self._known)

    def restore(self, values: BufferValues) -> None:
        """Write earlier values back, in place where the shape still fits."""
        present = self.take()
        for name, value in values.items():
            if present.get(name) is value:
                continue
            owner, _, key = name.rpartition(".")
            module = self._model.get_submodule(owner)
            buffer = module._buffers.get(key)
            if buffer is not None and buffer.shape == value.shape:
                with torch.no_grad():
                    buffer.copy_(value)
            else:
                module._buffers[key] = value.clone()
            self._known[name] = value


def _is_alike(known: Tensor | None, buffer: Tensor) -> bool:
    return known is not None and (known.shape, known.dtype, known.device) == (buffer.shape, buffer.dtype, buffer.device)
