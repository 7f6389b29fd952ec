"""Proves on the user's own model and loss that micro-batches come to the whole batch, or finds what breaks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from gradledger.engine.weights import Weight
from gradledger.errors import UserError
from gradledger.ledger import Reduction
from gradledger.verifier.diagnosis import Evidence, find_cause
from gradledger.verifier.exact_type import in_exact_type, no_float64, precision_name, try_out, type_name
from gradledger.verifier.judging import Gradients, in_one_column, judge, lower_type, relative_distance
from gradledger.verifier.pinning import layouts_of
from gradledger.verifier.result import Cause, ParameterError, Verification
from gradledger.verifier.sandbox import Sandbox
from gradledger.verifier.trial import LossFunction, Task, Trial

_TURNED_OFF = "dropout was turned off: its masks could not be pinned to samples"


def verify(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    micro_batch_size: int,
    weight: Weight | Mapping[str, Weight] | None = None,
    reduction: Reduction = "mean",
    precision: str = "32-true",
    accumulate_dtype: torch.dtype | None = None,
) -> Verification:
    """Compare the gradient of a whole batch with that of its micro-batches, on copies of the model.

    Both are computed in float64, which shows whether the arithmetic is right, and in the working precision, which
    shows what rounding makes of it. Errors are judged by the whole batch's own error in the working precision.

    Args:
        model: Any module. It, its buffers, gradients and modes, and the random generators are left as they are.
        loss_fn: ``loss_fn(model, micro_batch)`` gives the mean loss of a micro-batch, as for
            :meth:`gradledger.Accumulator.update`; or a mapping of losses by the unit that each is a mean over.
        batch: A whole effective batch; a small one shows as much as a large one.
        micro_batch_size: Samples per micro-batch. Choose one that does not divide the batch, and the tail is seen too.
        weight: What the loss is a mean over, as for :class:`gradledger.Accumulator`.
        reduction: Whether ``loss_fn`` gives the mean or the sum over its units.
        precision: The working precision, as for :class:`gradledger.Accumulator`.
        accumulate_dtype: The type that gradients accumulate in, as for :class:`gradledger.Accumulator`.

    Returns:
        The verdict, the error and tolerance of each parameter, and the cause where it is not exact.

    Raises:
        UserError: The model cannot be copied, the batch cannot be split, or the loss function fails.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
        >>> batch = torch.randn(10, 4)
        >>> result = verify(model, lambda model, x: model(x).square().mean(), batch, micro_batch_size=4)
        >>> result.verdict, result.cause.slug, result.cause.where
        ('not exact', 'coupled-layer', '1')
        >>> verify(model.eval(), lambda model, x: model(x).square().mean(), batch, micro_batch_size=4).verdict
        'exact'
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"model must be a torch Module, not {type(model).__name__}")
    if not callable(loss_fn):
        raise UserError(f"loss_fn must be callable as loss_fn(model, micro_batch), not {type(loss_fn).__name__}")
    task = Task(model, loss_fn, batch, micro_batch_size, weight, reduction, precision, accumulate_dtype)
    with Sandbox(model):
        return _verify(task)


def _verify(task: Task) -> Verification:
    working = Trial(task)
    if len(working.micro_batches) < 2:
        raise UserError(
            f"micro_batch_size={task.micro_batch_size} makes one micro-batch of the batch's {sum(working.sizes)} "
            "samples: there is nothing to compare, choose a smaller one"
        )
    try_out(working)
    answer = Verification("not comparable", (), None, (), len(working.micro_batches), precision_name(task))
    trial, refusal = in_exact_type(task)
    if trial is None:
        return replace(answer, cause=no_float64(refusal))
    answer = replace(answer, exact_type=type_name(trial.dtype))
    trial, notes, cause = pin(trial)
    if refusal:
        notes = (f"judged in float32, because the model does not run in float64 ({refusal})", *notes)
    if cause is not None:
        return replace(answer, cause=cause, notes=notes)
    parameters = compare(trial)
    if trial.layouts and not _is_right(parameters):
        silenced = replace(trial, layouts=None, without_dropout=True)
        if not silenced.random_shapes() and _is_right(without := compare(silenced)):
            trial, notes, parameters = silenced, (_TURNED_OFF,), without
    notes = (*notes, *_moving_buffers(trial))
    if not _is_right(parameters):
        evidence = Evidence(trial)
        return replace(answer, verdict="not exact", parameters=parameters, cause=find_cause(evidence), notes=notes)
    worst = [parameter for parameter in parameters if not parameter.is_exact]
    if worst:
        return replace(answer, verdict="not exact", parameters=parameters, cause=_rounding(worst, answer), notes=notes)
    return replace(answer, verdict="exact", parameters=parameters, notes=notes)


def pin(trial: Trial) -> tuple[Trial, tuple[str, ...], Cause | None]:
    """The trial with its random calls pinned to samples or turned off, with a note; or why neither can be."""
    notes: tuple[str, ...] = ()
    shapes = trial.random_shapes()
    if shapes:
        layouts = layouts_of(shapes, trial.random_shapes(0), sum(trial.sizes), trial.sizes[0])
        if layouts is not None:
            trial = replace(trial, layouts=layouts)
            notes = (f"{len(shapes)} random calls (dropout) were pinned to samples",)
        else:
            trial = replace(trial, without_dropout=True)
            notes = (_TURNED_OFF,)
            if trial.random_shapes():
                return trial, (), _random("random numbers that are not drawn per sample")
    if relative_distance(trial.gradient(), trial.gradient()) > trial.resolution:
        return trial, notes, _random("random numbers from outside torch, or state that loss_fn keeps between calls")
    return trial, notes, None


def compare(trial: Trial) -> tuple[ParameterError, ...]:
    """Errors and tolerances of a trial in the exact type and of the same in a lower one and the working precision."""
    assert trial.dtype is not None
    working, lower = trial.with_dtype(None), trial.with_dtype(lower_type(trial.dtype))
    types = {p.dtype for p in trial.task.model.parameters() if p.requires_grad}
    is_plain = trial.task.precision == "32-true"
    reference, accumulated_exact, whole_lower = trial.reference(), trial.accumulated(), lower.reference()
    is_exact = types == {trial.dtype} and is_plain
    if is_exact:
        whole, accumulated = reference, accumulated_exact
    else:
        is_lower = types == {lower.dtype} and is_plain
        whole, accumulated = (whole_lower if is_lower else working.reference()), working.accumulated()
    accumulates_in = trial.task.accumulate_dtype or max(types, key=lambda dtype: torch.finfo(dtype).eps)
    gradients = Gradients(
        reference,
        accumulated_exact,
        whole_lower,
        whole,
        accumulated,
        roundoff=torch.finfo(accumulates_in).eps / 2,
        num_micro_batches=len(trial.micro_batches),
        exact=trial.dtype,
    )
    judged = judge(gradients)
    return in_one_column(judged) if is_exact else judged


def _is_right(parameters: tuple[ParameterError, ...]) -> bool:
    return all(parameter.is_right for parameter in parameters)


def _moving_buffers(trial: Trial) -> tuple[str, ...]:
    model = trial.fresh()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    trial.gradient(model=model)
    moved = [n for n, buffer in model.named_buffers() if n in before and not torch.equal(before[n], buffer)]
    if not moved:
        return ()
    shown = ", ".join(moved[:3]) + (f" and {len(moved) - 3} more" if len(moved) > 3 else "")
    return (f"buffers move with every forward, so {len(trial.sizes)} times per update instead of once: {shown}",)


def _rounding(worst: list[ParameterError], answer: Verification) -> Cause:
    first = max(worst, key=lambda parameter: parameter.error / parameter.tolerance)
    return Cause(
        "low-precision-accumulation",
        f"in {answer.exact_type} the micro-batches are exact; in {answer.precision} {first.name} is off by "
        f"{first.error:.2g}, while the whole batch's own error is {first.whole_error:.2g}: "
        f"{answer.num_micro_batches} additions round it away",
        "accumulate in float32: Accumulator(..., accumulate_dtype=torch.float32)",
        where=first.name,
    )


def _random(what: str) -> Cause:
    return Cause(
        "random",
        f"two runs over the same batch give unlike gradients: the forward uses {what}, so that no two runs can be "
        "compared",
        "seed them from the batch, turn them off while you verify, or use torch's own dropout",
    )
