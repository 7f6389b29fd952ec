"""The close of a window, in the one right order: normalise, unscale, check, clip, step, scaler update, schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from gradledger.engine.account import Account
from gradledger.engine.gradients import WindowGradient
from gradledger.engine.precision import Precision
from gradledger.engine.record import WindowRecord, read_losses
from gradledger.errors import UserError

if TYPE_CHECKING:
    from gradledger.engine.replaying import Replay

NonFinite = Literal["raise", "skip-update", "drop-micro-batch"]
"""What becomes of a window with a non-finite loss or gradient.

``raise``: an error names the micro-batch and the window is void. ``skip-update``: the window is skipped and nothing
changes. ``drop-micro-batch``: the micro-batch's gradient is left out and the others are re-normalised.
"""


class NonFiniteError(UserError):
    """A loss or a gradient is not finite."""


@dataclass(frozen=True, slots=True)
class ClosingPolicy:
    """What is done with a window's gradient before the step.

    Args:
        clip_norm: Bound on the gradient's total 2-norm.
        clip_value: Bound on each of the gradient's values.
        non_finite: What becomes of a window that is not finite.

    Raises:
        UserError: Both bounds are given, one is not a positive number, or the policy is unknown.
    """

    clip_norm: float | None = None
    clip_value: float | None = None
    non_finite: NonFinite = "raise"

    def __post_init__(self) -> None:
        if self.clip_norm is not None and self.clip_value is not None:
            raise UserError(f"clip_norm={self.clip_norm} and clip_value={self.clip_value} are both given: choose one")
        for name in ("clip_norm", "clip_value"):
            bound = getattr(self, name)
            is_number = isinstance(bound, int | float) and not isinstance(bound, bool)
            if bound is not None and not (is_number and bound > 0):
                raise UserError(f"{name}={bound!r} must be a positive number, or None for no clipping")
        if self.non_finite not in get_args(NonFinite):
            choices = ", ".join(map(repr, get_args(NonFinite)))
            raise UserError(f"non_finite={self.non_finite!r}: choose one of {choices}")

    @property
    def clip(self) -> tuple[str, float] | None:
        """How clipping is written down in the ledger."""
        if self.clip_norm is not None:
            return "norm", self.clip_norm
        return None if self.clip_value is None else ("value", self.clip_value)


def prepare_gradient(
    account: Account, record: WindowRecord, policy: ClosingPolicy, precision: Precision, *, for_closure: bool
) -> WindowGradient | None:
    """Normalise, unscale, measure, clip and cast the gradient of a window, ready for the optimizer.

    Args:
        account: The account whose gradients are summed up.
        record: The window's record; its ``factor`` is what is left to normalise by (None for 1); its ``norm`` is set.
        policy: Clipping and what becomes of non-finite gradients.
        precision: The gradient scaler and the accumulation type.
        for_closure: The optimizer reads the gradient itself, so no factor may be left to its step.

    Returns:
        The gradient, or None where the optimizer may not step; a gradient scaler decides that for itself.

    Raises:
        NonFiniteError: Under ``non_finite="raise"``.
    """
    tensors = account.gradients()
    account.fused.check(account)
    has_factors = record.factor is not None or policy.clip_norm is not None
    reads_gradient = for_closure or precision.scaler is not None or policy.clip_value is not None
    rides = has_factors and not reads_gradient and account.fused.takes_factor(tensors)
    gradient = WindowGradient(tensors, keeps_factor=rides)
    if record.factor is not None:
        gradient.multiply(record.factor)
    if precision.scaler is not None:
        precision.unscale(account.optimizer)
    record.norm = norm = gradient.norm()
    if precision.scaler is None and not math.isfinite(norm):
        if policy.non_finite == "raise":
            raise non_finite_error(record)
        return None
    if policy.clip_norm is not None:
        gradient.clip(policy.clip_norm, norm)
    elif policy.clip_value is not None:
        torch._foreach_clamp_min_(tensors, -policy.clip_value)
        torch._foreach_clamp_max_(tensors, policy.clip_value)
    precision.to_parameter_dtype(account.parameters)
    return gradient


def apply_update(
    account: Account,
    record: WindowRecord,
    *,
    policy: ClosingPolicy,
    precision: Precision,
    replay: Replay | None = None,
) -> None:
    """Turn the gradients of a window into one update, and write down in ``record`` what was done.

    Args:
        account: The account whose gradients are summed up and not yet normalised.
        record: The window's record.
        policy: Clipping and what becomes of non-finite gradients.
        precision: The gradient scaler and the accumulation type.
        replay: Evaluates the window again, for optimizers that ask for it.

    Raises:
        NonFiniteError: Under ``non_finite="raise"``.
    """
    gradient = prepare_gradient(account, record, policy, precision, for_closure=replay is not None)
    if gradient is not None:
        num_steps_before = account.num_optimizer_steps
        account.is_stepping = True
        has_stepped = True
        try:
            if replay is not None:
                has_stepped = replay.step(record)
            elif precision.scaler is None:
                account.fused.step(gradient)
            else:
                precision.scaler.step(account.optimizer)
                precision.update_scaler()
        finally:
            account.is_stepping = False
        record.is_skipped = not has_stepped or account.num_optimizer_steps == num_steps_before
        if (
            record.is_skipped
            and policy.non_finite == "raise"
            and not all(map(math.isfinite, read_losses(record.losses)))
        ):
            raise non_finite_error(record)
    else:
        record.is_skipped = True
    record.is_stepped = True


def advance(scheduler: LRScheduler | ReduceLROnPlateau | None, record: WindowRecord) -> None:
    """Advance a scheduler by one update; a ReduceLROnPlateau waits for its metric."""
    if scheduler is None or isinstance(scheduler, ReduceLROnPlateau):
        return
    scheduler.step()
    record.scheduler = type(scheduler).__name__
    record.learning_rate = learning_rate_of(scheduler.optimizer)


def non_finite_error(record: WindowRecord) -> NonFiniteError:
    """The error that names the first micro-batch whose loss is not finite, or says that only gradients are not."""
    advice = "look at that micro-batch, or choose non_finite='skip-update' or 'drop-micro-batch'"
    for term, loss in zip(record.terms, read_losses(record.losses), strict=True):
        if not math.isfinite(loss) and term.coefficient != 0:
            return NonFiniteError(f"the loss of micro-batch {term.position} of the window is {loss}: {advice}")
    norm = math.nan if record.norm is None else float(record.norm)
    return NonFiniteError(f"the window's gradient has the norm {norm} although all its losses are finite: {advice}")


def schedule_on_metric(scheduler: Any, metric: float | Tensor) -> None:
    """Advance a ReduceLROnPlateau by the metric that it watches.

    Raises:
        UserError: There is no such scheduler.
    """
    if not isinstance(scheduler, ReduceLROnPlateau):
        kind = "no scheduler" if scheduler is None else f"a {type(scheduler).__name__}, which advances with each update"
        raise UserError(f"schedule(metric) is for ReduceLROnPlateau, but this accumulator has {kind}")
    scheduler.step(metric)


def learning_rate_of(optimizer: torch.optim.Optimizer) -> Any:
    """The first parameter group's learning rate, a number or a tensor."""
    return optimizer.param_groups[0]["lr"]
