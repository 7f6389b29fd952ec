"""What the user's own accumulation loop does to the parameters, against the whole batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradledger.errors import UserError
from gradledger.verifier.diagnosis import Evidence, find_cause
from gradledger.verifier.exact_type import in_exact_type, no_float64, precision_name, try_out, type_name
from gradledger.verifier.judging import Gradients, distance, in_one_column, judge, lower_type, relative_distance
from gradledger.verifier.naming import Window, name_step_fault
from gradledger.verifier.result import Cause, ParameterError, Verification
from gradledger.verifier.sandbox import Sandbox, copy_of, copy_of_batch
from gradledger.verifier.trial import Gradient, LossFunction, Task, Trial, turn_off_dropout

StepFunction = Callable[[nn.Module, Optimizer, list[Any]], Any]
"""``step_fn(model, optimizer, micro_batches)`` makes one update from a window's micro-batches."""

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]

_LEARNING_RATE = 0.1
_ALL_ROUNDING = 0.1  # where the lower type is off by this much, nothing is left but rounding


def verify_step(
    step_fn: StepFunction,
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    micro_batch_size: int,
    optimizer: OptimizerFactory | Optimizer | None = None,
    num_updates: int = 2,
    clip_norm: float | None = None,
) -> Verification:
    """Compare what an accumulation loop does to a model's parameters with one step on the whole batch.

    The loop runs on a copy, for a few updates on the same batch. Before each, a twin of the copy takes one plain step
    on the whole batch; then gradients at the step and parameters after it are compared. Dropout is turned off.

    Args:
        step_fn: ``step_fn(model, optimizer, micro_batches)`` makes one update: the body of the user's loop. It must use
            the model and the optimizer that it is given.
        model: Any module; left as it is.
        loss_fn: ``loss_fn(model, batch)`` gives the loss of the whole batch, which ``step_fn`` should come to.
        batch: A whole effective batch.
        micro_batch_size: Samples per micro-batch.
        optimizer: Makes an optimizer of parameters, or an optimizer of ``model`` to copy. None is plain SGD, with
            which no fault in the scale is hidden.
        num_updates: Updates to make; the second shows gradients left over from the first.
        clip_norm: The bound that the loop clips the gradient's norm to, if it does.

    Returns:
        The verdict for the first update that differs, or for the last one.

    Raises:
        UserError: ``step_fn`` fails, or leaves the model and optimizer that it was given alone.

    Example:
        >>> import torch
        >>> def step_fn(model, optimizer, micro_batches):
        ...     optimizer.zero_grad()
        ...     for micro_batch in micro_batches:
        ...         model(micro_batch).square().mean().backward()
        ...     optimizer.step()
        >>> loss_fn = lambda model, batch: model(batch).square().mean()
        >>> result = verify_step(step_fn, torch.nn.Linear(4, 1), loss_fn, torch.randn(32, 4), micro_batch_size=4)
        >>> result.cause.message
        'the gradient is 8.000 x the expected one: not divided by the number of micro-batches'
    """
    if not callable(step_fn):
        raise UserError(f"step_fn must be callable as step_fn(model, optimizer, micro_batches), not {step_fn!r}")
    if isinstance(num_updates, bool) or not isinstance(num_updates, int) or num_updates < 1:
        raise UserError(f"{num_updates=} must be a whole number of updates, at least 1")
    with Sandbox(model, "step_fn or loss_fn"):
        twin, twins_optimizer = _twins(model, optimizer)
        turn_off_dropout(twin)
        task = Task(twin, loss_fn, batch, micro_batch_size)
        return _run(_Loop(step_fn, task, twins_optimizer, clip_norm), num_updates)


@dataclass(frozen=True)
class _Loop:
    step_fn: StepFunction
    task: Task
    optimizer: Optimizer
    clip_norm: float | None


@dataclass(frozen=True)
class _Step:
    """One step: the gradient that it was made from, and what it changed."""

    gradient: Gradient
    change: Gradient


@dataclass(frozen=True)
class _Update:
    """One update of the loop, beside plain steps of a twin in the working precision and in the types it is judged by.

    Args:
        before: The model before it.
        gradients: The gradients at each call of the optimizer's step.
        change: What the loop changed.
        expected: The twin's step, by type; None is the working precision.
    """

    before: Trial
    gradients: list[Gradient]
    change: Gradient
    expected: dict[torch.dtype | None, _Step]


def _twins(model: nn.Module, optimizer: OptimizerFactory | Optimizer | None) -> tuple[nn.Module, Optimizer]:
    """A copy of the model with an optimizer of its own."""
    if isinstance(optimizer, Optimizer):
        owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if not owned <= {id(parameter) for parameter in model.parameters()}:
            raise UserError("the optimizer owns parameters that are not the model's: give the optimizer of this model")
        twin, twins_optimizer = copy.deepcopy((model, optimizer))
        return twin, twins_optimizer
    twin = copy_of(model)
    parameters = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    made = torch.optim.SGD(parameters, lr=_LEARNING_RATE) if optimizer is None else optimizer(parameters)
    if not isinstance(made, Optimizer):
        raise UserError(f"optimizer must make a torch Optimizer of parameters, not {type(made).__name__}")
    return twin, made


def _run(loop: _Loop, num_updates: int) -> Verification:
    working = Trial(loop.task, without_dropout=True)
    try_out(working)
    answer = Verification(
        "not comparable", num_micro_batches=len(working.micro_batches), precision=precision_name(loop.task)
    )
    exact, refusal = in_exact_type(loop.task)
    if exact is None or exact.dtype is None:
        return replace(answer, cause=no_float64(refusal))
    answer = replace(answer, exact_type=type_name(exact.dtype))
    if relative_distance(working.gradient(), working.gradient()) > working.resolution:
        message = "two runs over the same batch give unlike gradients: the forward draws random numbers"
        return replace(answer, cause=Cause("random", message, "turn them off to verify"))
    previous: Gradient | None = None
    for number in range(num_updates):
        update = _observe(loop, exact.dtype)
        judged = _judge(update, len(working.micro_batches), exact.dtype)
        for what, parameters in judged.items():
            answer = replace(answer, checked=f"{what} {number + 1}", parameters=parameters)
            if len(update.gradients) != 1 or not all(parameter.is_exact for parameter in parameters):
                cause, shares = _cause(update, previous, loop.clip_norm, exact.dtype)
                return replace(answer, verdict="not exact", cause=cause, shares=shares)
        previous = update.gradients[0]
    return replace(answer, verdict="exact")


def _observe(loop: _Loop, exact: torch.dtype) -> _Update:
    """Run the loop once, beside one plain step of a twin in the working precision, a lower and the exact type."""
    model, optimizer = loop.task.model, loop.optimizer
    start = copy.deepcopy(model)
    before = Trial(replace(loop.task, model=start), without_dropout=True)
    expected = {dtype: _plain_step(loop, dtype) for dtype in (None, lower_type(exact), exact)}
    gradients: list[Gradient] = []
    names = {parameter: name for name, parameter in model.named_parameters()}

    def note(*_: Any) -> None:
        gradients.append({n: p.grad.detach().double().clone() for p, n in names.items() if p.grad is not None})

    hook = optimizer.register_step_pre_hook(note)
    try:
        loop.step_fn(model, optimizer, [copy_of_batch(each) for each in before.micro_batches])
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"step_fn fails: {type(error).__name__}: {error}") from error
    finally:
        hook.remove()
    return _Update(before, gradients, _change(start, model), expected)


def _plain_step(loop: _Loop, dtype: torch.dtype | None) -> _Step:
    """One step on the whole batch, on a twin of the loop's model and optimizer."""
    model, optimizer = copy.deepcopy((loop.task.model, loop.optimizer))
    if dtype is not None:
        model.to(dtype)
        for state in optimizer.state.values():
            state.update({k: v.to(dtype) for k, v in state.items() if isinstance(v, Tensor) and v.is_floating_point()})
    start = copy.deepcopy(model)
    trial = Trial(replace(loop.task, model=start), dtype=dtype, without_dropout=True)
    gradient = trial.gradient()
    for name, parameter in model.named_parameters():
        parameter.grad = gradient[name].to(parameter.dtype) if name in gradient else None
    if loop.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), loop.clip_norm)
    stepped = {name: p.grad.detach().double().clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    return _Step(stepped, _change(start, model))


def _change(start: nn.Module, end: nn.Module) -> Gradient:
    pairs = zip(start.named_parameters(), end.parameters(), strict=True)
    return {
        n: after.detach().double() - before.detach().double() for (n, before), after in pairs if after.requires_grad
    }


def _judge(update: _Update, num_micro_batches: int, exact: torch.dtype) -> dict[str, tuple[ParameterError, ...]]:
    """Judge the gradient at the step and what the step changed: Adam hides in the second what is wrong in the first."""
    types = {p.dtype for p in update.before.task.model.parameters() if p.requires_grad}
    is_exact = types == {exact}

    def judged(own: Gradient, expected: dict[torch.dtype | None, Gradient]) -> tuple[ParameterError, ...]:
        compared = Gradients(
            reference=expected[exact],
            accumulated_exact=own if is_exact else expected[exact],
            whole_lower=expected[lower_type(exact)],
            whole=expected[None],
            accumulated=own,
            roundoff=max(torch.finfo(dtype).eps for dtype in types) / 2,
            num_micro_batches=num_micro_batches,
            exact=exact,
        )
        return in_one_column(judge(compared)) if is_exact else judge(compared)

    idle = _idle(update, exact)

    def moving(change: Gradient) -> Gradient:
        return {name: value for name, value in change.items() if name not in idle}

    gradient = update.gradients[0] if update.gradients else {}
    gradients = {dtype: step.gradient for dtype, step in update.expected.items()}
    changes = {dtype: moving(step.change) for dtype, step in update.expected.items()}
    return {
        "gradient of update": judged(gradient, gradients),
        "parameters after update": judged(moving(update.change), changes),
    }


def _idle(update: _Update, exact: torch.dtype) -> set[str]:
    """Parameters whose gradient is nothing but rounding: Adam divides it by its own size and makes full steps of it."""
    lower, right = update.expected[lower_type(exact)].gradient, update.expected[exact].gradient
    return {n for n, g in right.items() if distance(lower, right, n) > _ALL_ROUNDING * float(g.norm())}


def _cause(
    update: _Update, previous: Gradient | None, clip_norm: float | None, exact: torch.dtype
) -> tuple[Cause, tuple[tuple[float, float], ...]]:
    evidence = Evidence(update.before)
    window = Window(update.gradients, update.expected[None].gradient, evidence.parts, previous, clip_norm)
    cause, shares = name_step_fault(window, update.before)
    if cause is None:
        cause = find_cause(Evidence(update.before.with_dtype(exact)))
    return cause, shares
