"""The type that errors are measured against: float64 where the model runs in it."""

from __future__ import annotations

import torch

from gradledger.errors import UserError
from gradledger.verifier.judging import lower_type
from gradledger.verifier.result import Cause
from gradledger.verifier.trial import Task, Trial


def in_exact_type(task: Task) -> tuple[Trial | None, str]:
    """The trial in float64, or in float32 where it does not run in float64, and what refused it."""
    refusal = ""
    for dtype in (torch.float64, torch.float32):
        trial = Trial(task, dtype=dtype)
        try:
            try_out(trial)
            try_out(trial.with_dtype(lower_type(dtype)))
        except UserError as error:
            refusal = refusal or str(error)
        else:
            return trial, refusal
    return None, refusal


def try_out(trial: Trial) -> None:
    """Run the whole batch and the first micro-batch once.

    Raises:
        UserError: One fails, or a gradient is not finite.
    """
    try:
        gradient = trial.gradient()
        trial.gradient(0)
    except UserError:
        raise
    except Exception as error:
        precision = "" if trial.dtype is None else f" in {type_name(trial.dtype)}"
        raise UserError(f"loss_fn fails{precision}: {type(error).__name__}: {error}") from error
    for name, value in gradient.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"the whole batch's gradient of {name} is not finite: there is nothing to compare with")


def no_float64(refusal: str) -> Cause:
    """The cause for a model that runs in too few types to be judged."""
    return Cause(
        "no-float64",
        "the model or the loss runs neither in float64 nor in float32 and bfloat16, which errors are measured by "
        f"({refusal})",
        "leave out the part that is written for one type (a custom kernel, a fixed dtype), and verify the rest",
    )


def precision_name(task: Task) -> str:
    """The working precision in words."""
    if task.precision != "32-true":
        return task.precision
    return ", ".join(sorted({type_name(p.dtype) for p in task.model.parameters() if p.requires_grad}))


def type_name(dtype: torch.dtype | None) -> str:
    """A type as people write it, such as ``float32``."""
    return str(dtype).removeprefix("torch.")
