"""What the gradients of an open window take, and what choices about them cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradledger.engine.memory.limits import readable_bytes


@dataclass(frozen=True, slots=True)
class GradientBytes:
    """The bytes of an open window's gradients, between its micro-batches.

    Args:
        device: Beside the parameters.
        host: In host memory, by ``offload="cpu"``. At the close they are on the device.
        for_accumulate_dtype: How many of them there are because gradients accumulate in a wider type than the
            parameters' own.
        for_dropping: How many of them keep a micro-batch's own gradients apart, for ``non_finite="drop-micro-batch"``.

    Example:
        >>> print(GradientBytes(device=4_000_000, host=0, for_accumulate_dtype=2_000_000, for_dropping=0))
        gradients take 4 MB on the device, 2 MB of them for accumulate_dtype=
    """

    device: int
    host: int
    for_accumulate_dtype: int
    for_dropping: int

    def __str__(self) -> str:
        place = "in host memory, none on the device before the close" if self.host else "on the device"
        costs = {"accumulate_dtype=": self.for_accumulate_dtype, "drop-micro-batch": self.for_dropping}
        parts = [f"gradients take {readable_bytes(self.device + self.host)} {place}"]
        parts += [f"{readable_bytes(num_bytes)} of them for {what}" for what, num_bytes in costs.items() if num_bytes]
        return ", ".join(parts)


def gradient_bytes(
    parameters: Sequence[Tensor],
    *,
    accumulate_dtype: torch.dtype | None,
    is_offloaded: bool,
    is_dropping: bool = False,
) -> GradientBytes:
    """What the gradients of these parameters take.

    Args:
        parameters: Those with ``requires_grad`` count.
        accumulate_dtype: The type that gradients accumulate in; None is the parameters' own.
        is_offloaded: They are kept in host memory.
        is_dropping: A micro-batch's own are kept apart until it is known to be finite.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    own = sum(parameter.numel() * parameter.element_size() for parameter in trained)
    one_set = own if accumulate_dtype is None else sum(p.numel() for p in trained) * accumulate_dtype.itemsize
    total = (1 + is_dropping) * one_set
    return GradientBytes(
        device=0 if is_offloaded else total,
        host=total if is_offloaded else 0,
        for_accumulate_dtype=max(0, one_set - own) * (1 + is_dropping),
        for_dropping=one_set if is_dropping else 0,
    )
