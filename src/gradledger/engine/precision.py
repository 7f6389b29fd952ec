"""Precision: autocast, the gradient scaler, and the type that gradients accumulate in."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.amp import GradScaler

from gradledger.errors import UserError

PrecisionName = Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true"]
"""``32-true`` leaves every type as the user made it (float64 models too); the ``-mixed`` ones run the forward under
autocast, ``16-mixed`` with a gradient scaler; ``bf16-true`` expects parameters in bfloat16."""

_AUTOCAST_TYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Precision:
    """How forwards, gradients and the step are computed.

    Args:
        name: One of :data:`PrecisionName`.
        parameters: The account's parameters.
        scaler: A gradient scaler shared with other accounts; with ``16-mixed`` one is made where none is given.
        accumulate_dtype: The type that gradients accumulate in; None is the parameters' own.

    Raises:
        UserError: The name is unknown, a scaler comes without ``16-mixed``, or parameters do not fit the precision.
    """

    def __init__(
        self,
        name: str,
        parameters: Sequence[Tensor],
        *,
        scaler: GradScaler | None = None,
        accumulate_dtype: torch.dtype | None = None,
    ) -> None:
        if name not in get_args(PrecisionName):
            raise UserError(f"precision={name!r}: choose one of {', '.join(map(repr, get_args(PrecisionName)))}")
        if scaler is not None and name != "16-mixed":
            raise UserError(f"a gradient scaler was given with precision={name!r}: only '16-mixed' uses one")
        self._check_types(name, parameters)
        if accumulate_dtype is not None and not hasattr(Tensor, "grad_dtype"):
            raise UserError(f"{accumulate_dtype=} needs Tensor.grad_dtype, which torch {torch.__version__} lacks")
        self.name = name
        self.device_type = parameters[0].device.type
        self.autocast_dtype = _AUTOCAST_TYPES.get(name)
        self.accumulate_dtype = accumulate_dtype
        self.scaler = scaler
        if name == "16-mixed" and scaler is None:
            self.scaler = GradScaler(self.device_type)

    @staticmethod
    def _check_types(name: str, parameters: Sequence[Tensor]) -> None:
        if name == "bf16-true" and any(p.is_floating_point() and p.dtype != torch.bfloat16 for p in parameters):
            found = sorted({str(p.dtype) for p in parameters})
            raise UserError(
                f"precision='bf16-true' expects bfloat16 parameters, but the optimizer owns {', '.join(found)}: "
                "call model.to(torch.bfloat16) before the optimizer is made"
            )
        if name == "16-mixed" and any(p.dtype == torch.float16 for p in parameters):
            raise UserError(
                "precision='16-mixed' keeps float32 parameters, but the optimizer owns float16 ones, whose gradients a "
                "gradient scaler cannot unscale: do not call model.half()"
            )

    def autocast(self) -> AbstractContextManager[Any] | None:
        """The context that forwards of a window run in, or None."""
        if self.autocast_dtype is None:
            return None
        return torch.autocast(self.device_type, dtype=self.autocast_dtype)

    def prepare(self, parameters: Sequence[Tensor]) -> None:
        """Before a window: let gradients accumulate in the accumulation type."""
        if self.accumulate_dtype is not None:
            for parameter in parameters:
                parameter.grad_dtype = self.accumulate_dtype

    def to_parameter_dtype(self, parameters: Sequence[Tensor]) -> None:
        """Before the step: cast gradients, once, to the type that the optimizer needs."""
        if self.accumulate_dtype is None:
            return
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is not None and gradient.dtype != parameter.dtype:
                parameter.grad = None
                parameter.grad_dtype = parameter.dtype
                parameter.grad = gradient.to(parameter.dtype)

    def update_scaler(self) -> None:
        """After the step: let the gradient scaler adapt, once."""
        if self.scaler is not None:
            self.scaler.update()

    def state_dict(self) -> dict[str, Any] | None:
        """The gradient scaler's state."""
        return None if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore the gradient scaler's state."""
        if self.scaler is not None and state is not None:
            self.scaler.load_state_dict(state)
