"""Precision: autocast, the gradient scaler, and the type that gradients accumulate in."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from gradledger.errors import UserError

PrecisionName = Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true"]
"""``32-true`` leaves every type as the user made it (float64 models too); the ``-mixed`` ones run the forward under
autocast, ``16-mixed`` with a gradient scaler; ``bf16-true`` expects parameters in bfloat16."""

_AUTOCAST_TYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def check_accumulate_dtype(accumulate_dtype: torch.dtype | None) -> None:
    """Whether gradients can accumulate in a type of their own.

    Raises:
        UserError: This torch cannot do that.
    """
    if accumulate_dtype is not None and not hasattr(Tensor, "grad_dtype"):
        raise UserError(f"{accumulate_dtype=} needs Tensor.grad_dtype, which torch {torch.__version__} lacks")


def set_gradient_dtype(parameter: Tensor, dtype: torch.dtype) -> None:
    """Let a parameter's gradient be of a type, the one that it has included."""
    gradient = parameter.grad
    if gradient is None or gradient.dtype == dtype:
        parameter.grad_dtype = dtype
        return
    parameter.grad = None
    parameter.grad_dtype = dtype
    parameter.grad = gradient.to(dtype)


@dataclass(slots=True)
class _ScalerUse:
    """Accounts may share a gradient scaler; its factor is frozen while any of them has an open window."""

    num_open_windows: int = 0
    is_update_due: bool = False


_uses: weakref.WeakKeyDictionary[GradScaler, _ScalerUse] = weakref.WeakKeyDictionary()


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
        check_accumulate_dtype(accumulate_dtype)
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
        if self.accumulate_dtype is not None:
            for parameter in parameters:
                if parameter.grad is not None:
                    set_gradient_dtype(parameter, parameter.dtype)

    def release(self, parameters: Sequence[Tensor]) -> None:
        """After a window: gradients made by others are of the parameters' own type again."""
        if self.accumulate_dtype is not None:
            for parameter in parameters:
                parameter.grad_dtype = parameter.dtype

    def open(self) -> None:
        """A window opens: the gradient scaler's factor stays as it is until every open window has closed."""
        if self.scaler is not None:
            _uses.setdefault(self.scaler, _ScalerUse()).num_open_windows += 1

    def close(self) -> None:
        """A window has closed, or is void."""
        if self.scaler is None:
            return
        use = _uses[self.scaler]
        use.num_open_windows -= 1
        if use.is_update_due and use.num_open_windows == 0:
            self.update_scaler()

    def unscale(self, optimizer: Optimizer) -> None:
        """Take the gradient scaler's factor out of the gradients.

        Raises:
            UserError: The optimizer stepped already since the shared scaler's factor was last adapted.
        """
        assert self.scaler is not None
        try:
            self.scaler.unscale_(optimizer)
        except RuntimeError as error:
            if "last update()" not in str(error) and "after step()" not in str(error):
                raise
            raise UserError(
                "a window closes for the second time while another account's window with the same gradient scaler is "
                "still open, so the factor cannot be adapted between them: give each accumulator its own scaler"
            ) from None

    def update_scaler(self) -> None:
        """After the step: let the gradient scaler adapt, once all windows that use it are closing or closed."""
        if self.scaler is None:
            return
        use = _uses[self.scaler]
        use.is_update_due = use.num_open_windows > 1
        if not use.is_update_due:
            self.scaler.update()

    def check_savable(self) -> None:
        """Notice a moment in which a shared gradient scaler knows more than its state says.

        Raises:
            UserError: One account has stepped, and the factor waits for another account's window to be adapted.
        """
        if self.scaler is not None and _uses[self.scaler].is_update_due:
            raise UserError(
                "state_dict() was called while a gradient scaler shared by several accounts waits for the last of "
                "their open windows: call it before the first of them closes, or after the last"
            )

    def begin_scaler(self) -> None:
        """Have the gradient scaler make its factor, which it otherwise does when it first scales a loss."""
        if self.scaler is not None:
            self.scaler.scale(torch.zeros((), device=self.device_type))

    def state_dict(self) -> dict[str, Any] | None:
        """The gradient scaler's state."""
        return None if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore the gradient scaler's state."""
        if self.scaler is not None and state:  # a disabled one has an empty state
            self.scaler.load_state_dict(state)
