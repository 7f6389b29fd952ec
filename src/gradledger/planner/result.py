"""What a plan says: costs by micro-batch size, a recommendation, and predictions for more ranks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from gradledger.engine.memory.accounting import GradientBytes
from gradledger.engine.memory.limits import readable_bytes
from gradledger.planner.communication import Link

AS_GOOD = 1.03
"""Within this factor of the fastest, the simpler choice is taken: no accumulation, or else less memory."""


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One micro-batch size.

    Args:
        micro_batch_size: Samples.
        num_micro_batches: In one update.
        peak_bytes: All that an update holds at once: parameters, buffers, optimizer state, gradients, activations and
            one micro-batch.
        seconds: Of one update, the optimizer's step counted; None where it is not known.
        fits: Whether the peak is within the memory.
        is_measured: Whether time and memory were measured, or predicted from smaller sizes.
    """

    micro_batch_size: int
    num_micro_batches: int
    peak_bytes: int
    seconds: float | None
    fits: bool
    is_measured: bool


@dataclass(frozen=True, slots=True)
class RankRow:
    """The predicted update on a number of ranks, with one all-reduce per update and with one per micro-batch."""

    num_ranks: int
    micro_batch_size: int
    num_micro_batches: int
    seconds_with_no_sync: float
    seconds_without_no_sync: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The costs of an effective batch, and what to choose.

    Args:
        effective_batch_size: Samples of one update over all ranks.
        rows: One per micro-batch size, by size; the last is the whole batch.
        limit_bytes: The memory that there is.
        fixed_bytes: What is held whatever the micro-batch: parameters, buffers, gradients, optimizer state.
        gradient_bytes: What an all-reduce moves.
        gradients: What the gradients of an open window take, and where.
        device: Where it was measured.
        ranks: Predictions for more ranks.
        link: The communication model that they come from.
    """

    effective_batch_size: int
    rows: tuple[PlanRow, ...]
    limit_bytes: int
    fixed_bytes: int
    gradient_bytes: int
    gradients: GradientBytes
    device: str
    ranks: tuple[RankRow, ...]
    link: Link

    @property
    def recommended(self) -> PlanRow | None:
        """The whole batch where it fits and is as fast as any; else the smallest size that is; None if none fits."""
        return recommended_row(self.rows)

    @property
    def verdict(self) -> str:
        """The recommendation in words."""
        choice, whole = self.recommended, self.rows[-1]
        if choice is None:
            least = self.rows[0]
            return (
                f"not even a micro-batch of {least.micro_batch_size} fits: it takes {readable_bytes(least.peak_bytes)} "
                f"of {readable_bytes(self.limit_bytes)}, {readable_bytes(self.fixed_bytes)} of them before any sample. "
                "checkpointing=True, precision='bf16-mixed' or an optimizer with less state would help"
            )
        if choice is whole:
            return "your hardware fits the whole batch: do not accumulate"
        text = (
            f"accumulate {choice.num_micro_batches} micro-batches of {choice.micro_batch_size}: "
            f"{readable_bytes(choice.peak_bytes)} of {readable_bytes(self.limit_bytes)}"
        )
        if choice.seconds is None or whole.seconds is None:
            return text
        ratio = choice.seconds / whole.seconds
        if whole.fits:
            return f"{text}; the whole batch fits too, but takes {1 / ratio:.2f} × the time on {self.device}"
        needs = readable_bytes(whole.peak_bytes)
        return f"{text}, {ratio:.2f} × the time that the whole batch would take with {needs}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        choice = self.recommended
        return {
            "effective_batch_size": self.effective_batch_size,
            "verdict": self.verdict,
            "recommended": None if choice is None else asdict(choice),
            "limit_bytes": self.limit_bytes,
            "fixed_bytes": self.fixed_bytes,
            "gradient_bytes": self.gradient_bytes,
            "gradients": asdict(self.gradients),
            "device": self.device,
            "rows": [asdict(row) for row in self.rows],
            "ranks": [asdict(row) for row in self.ranks],
            "link": asdict(self.link),
        }


def recommended_row(rows: tuple[PlanRow, ...]) -> PlanRow | None:
    """The row to choose."""
    fitting = [row for row in rows if row.fits]
    timed = [row for row in fitting if row.seconds is not None]
    if not timed:
        return fitting[-1] if fitting else None
    fastest = min(row.seconds for row in timed if row.seconds is not None)
    good = [row for row in timed if row.seconds is not None and row.seconds <= fastest * AS_GOOD]
    return rows[-1] if good[-1] is rows[-1] else good[0]
