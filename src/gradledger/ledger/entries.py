"""The entries of a ledger: one frozen record for each thing that happens to gradients.

A training loop that keeps its books in order reads, per window:

    Zero                     once, before the first backward of the window
    Backward × micro-batches each adds (scale × gradient of its loss) to ``.grad``
    Sync                     gradients reduced over ranks, with the last backward
    Unscale                  the gradient scaler's factor taken out, once
    Clip                     once, over the whole window's gradient
    Step                     consumes the gradient: one update (or skipped by the scaler)
    ScalerUpdate             once, whatever the number of optimizers
    Schedule                 the learning rate advances per update, not per micro-batch
    Zero                     nothing is left for the next window

Nothing here imports torch: the linter predicts the same entries from source text.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal, NamedTuple

Reduction = Literal["mean", "sum"]

DEFAULT_ACCOUNT = "main"


class Location(NamedTuple):
    """Where in the user's source an entry comes from."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What every entry carries.

    Args:
        account: Name of the parameters that one optimizer owns.
        micro_batch: Micro-batches of this account begun so far; a ``Backward`` counts its own, so the first has 1.
        update: Updates of this account completed before this entry.
        location: The line of the user's source that caused it, where known.
        rank: The process that it happened on.
    """

    account: str = DEFAULT_ACCOUNT
    micro_batch: int = 0
    update: int = 0
    location: Location | None = None
    rank: int = 0

    LETTER: ClassVar[str] = "?"

    @property
    def letter(self) -> str:
        """The entry's letter in the text form."""
        return self.LETTER


@dataclass(frozen=True, slots=True, kw_only=True)
class Zero(Entry):
    """Gradients of the account were reset.

    Args:
        void: The window was given up on purpose (an exception, a refused step); what it held was not lost by mistake.
        partial: Only some of the account's parameters were reset.
    """

    void: bool = False
    partial: bool = False

    LETTER: ClassVar[str] = "Z"

    @property
    def letter(self) -> str:
        """``V`` for a void window, ``Z`` otherwise."""
        return "V" if self.void else "Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backward(Entry):
    """A backward pass added to the gradients of the account. What cannot be known is None.

    Args:
        weight: Units (samples, tokens) that the loss is a mean or a sum over.
        unit: What the weight counts. Terms of one micro-batch with unlike units have their own totals.
        scale: Factor that the loss was multiplied by, without the gradient scaler's own factor.
        reduction: Whether the loss is the mean or the sum over its units.
        loss: The loss before it was multiplied by ``scale``.
        retained: The graph was kept for another backward.
        synced: Gradients were reduced over ranks during this backward.
        grad_dtype: The type that gradients accumulate in, such as ``"bfloat16"``.
        finite: Whether the loss was finite.
        call: Number of the backward call; entries of several accounts with one number come from one call.
        factors: The constants that multiplied the loss, outermost first; their product is ``scale``. ``loss / 4`` is
            ``(0.25,)``. None where unknown.
        scaled_by_scaler: The loss went through a gradient scaler that is switched on.
        reuses: The earlier call whose retained graph this one went through again.
        num_unowned: Parameters that received a gradient in this call and belong to no optimizer.
        batch_norm: Batch normalisation in training mode took part.
        coupled: The loss compares the samples of the micro-batch with each other (labels are their positions).
        trainer_steps: The micro-batches of a window that a trainer (Accelerate) was told of, and divided the loss by.
        own_half: One factor of a half may be the loss's own: half a squared error, the mean of two terms, a weight.
            False for a cross entropy that is only divided.
    """

    weight: float | None = None
    unit: str = "samples"
    scale: float | None = None
    reduction: Reduction | None = None
    loss: float | None = None
    retained: bool = False
    synced: bool | None = None
    grad_dtype: str | None = None
    finite: bool | None = None
    call: int | None = None
    factors: tuple[float, ...] | None = None
    scaled_by_scaler: bool | None = None
    reuses: int | None = None
    num_unowned: int | None = None
    batch_norm: bool | None = None
    coupled: bool | None = None
    trainer_steps: int | None = None
    own_half: bool | None = None

    LETTER: ClassVar[str] = "B"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjust(Entry):
    """The gradients in ``.grad`` were changed by hand; ``factor`` where it was a multiplication by a known number."""

    factor: float | None = None

    LETTER: ClassVar[str] = "A"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync(Entry):
    """Gradients were reduced over ranks (all-reduce or reduce-scatter)."""

    LETTER: ClassVar[str] = "R"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unscale(Entry):
    """The gradient scaler's factor was taken out of the gradients."""

    LETTER: ClassVar[str] = "U"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip(Entry):
    """Gradients were clipped.

    Args:
        by: Whether the norm or each value was bounded.
        limit: The bound.
        norm: The total norm before clipping, where it was read.
    """

    by: Literal["norm", "value"] = "norm"
    limit: float | None = None
    norm: float | None = None

    LETTER: ClassVar[str] = "C"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Entry):
    """The optimizer consumed the gradients.

    Args:
        skipped: A gradient scaler or a policy refused the step: it is not an update.
        scaler: The step went through a gradient scaler. None: unknown.
        norm: The total norm of the gradient before clipping, where it was read.
        loss: The weighted mean loss of the window, where it was read.
        in_backward: The step was taken from a hook while a backward pass was running.
        num_missing: Parameters of the account that ask for a gradient and have never received one so far.
        memory_share: The peak share of the device's memory in use so far, 0 to 1, where the device says.
    """

    skipped: bool = False
    scaler: bool | None = None
    norm: float | None = None
    loss: float | None = None
    in_backward: bool = False
    num_missing: int | None = None
    memory_share: float | None = None

    LETTER: ClassVar[str] = "S"

    @property
    def letter(self) -> str:
        """``s`` for a skipped step, ``S`` for an update."""
        return "s" if self.skipped else "S"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerUpdate(Entry):
    """The gradient scaler adapted its factor."""

    LETTER: ClassVar[str] = "G"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(Entry):
    """A learning-rate scheduler advanced.

    Args:
        lr: The first parameter group's learning rate afterwards.
        scheduler: The scheduler's class name.
        horizon: The number of steps that the scheduler was built for, where it has one.
        construction: The line that built it, where known.
    """

    lr: float | None = None
    scheduler: str | None = None
    horizon: int | None = None
    construction: Location | None = None

    LETTER: ClassVar[str] = "L"


@dataclass(frozen=True, slots=True, kw_only=True)
class Average(Entry):
    """A running average of the weights (EMA, SWA, a teacher) took in the account's weights."""

    LETTER: ClassVar[str] = "W"


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochStart(Entry):
    """A pass over the training loader began; ``num_micro_batches`` where the loader has a length."""

    epoch: int = 0
    num_micro_batches: int | None = None

    LETTER: ClassVar[str] = "("


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEnd(Entry):
    """A pass over the training loader ended by itself."""

    epoch: int = 0

    LETTER: ClassVar[str] = ")"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate(Entry):
    """The model was evaluated without gradients."""

    LETTER: ClassVar[str] = "E"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric(Entry):
    """A number was reported.

    Args:
        name: Such as ``"loss"`` or ``"recall/3"``.
        value: The number.
        split: What it was measured on: ``"train"``, ``"validation"``, or the user's own name.
        scale: The factor that the reported number still carries, such as 0.25 for a loss already divided by 4.
        host_sync: The host waited for the device to read it.
    """

    name: str = ""
    value: float = 0.0
    split: str = "train"
    scale: float | None = None
    host_sync: bool | None = None

    LETTER: ClassVar[str] = "M"


KINDS: dict[str, type[Entry]] = {
    kind.__name__: kind
    for kind in (
        Zero, Backward, Adjust, Sync, Unscale, Clip, Step, ScalerUpdate, Schedule, Average,
        EpochStart, EpochEnd, Evaluate, Metric,
    )
}  # fmt: skip
"""Every kind of entry by its name, in the order of a window."""

COMMON_FIELDS = tuple(field.name for field in fields(Entry))
