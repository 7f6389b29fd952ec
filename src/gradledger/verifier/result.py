"""What a verification comes to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["exact", "not exact", "not comparable"]
CauseSlug = Literal[
    "coupled-layer",
    "coupled-loss",
    "ignored-upstream-gradient",
    "keeps-state",
    "wrong-denominator",
    "several-denominators",
    "wrong-scale",
    "low-precision-accumulation",
    "random",
    "no-float64",
    "discarded-gradient",
    "stale-gradient",
    "missing-micro-batch",
    "uneven-scale",
    "clip",
    "num-steps",
    "optimizer",
    "unknown",
]


@dataclass(frozen=True, slots=True)
class Cause:
    """Why micro-batches do not come to the whole batch, as found by experiment.

    Args:
        slug: The kind of cause.
        message: The fact with its values, one sentence.
        fix: What to do.
        where: The layer, loss or parameter that it is about, where there is one.
        factor: The measured gradient is this many times the expected one, where that is so.
    """

    slug: CauseSlug
    message: str
    fix: str
    where: str | None = None
    factor: float | None = None


@dataclass(frozen=True, slots=True)
class ParameterError:
    """How far one parameter's gradient is from the whole batch's. Errors and tolerances are relative to ``norm``.

    Args:
        name: The parameter's name in the model.
        num_values: Its number of elements.
        norm: The 2-norm of the whole batch's gradient, in the exact type.
        error: Distance of the micro-batches' gradient, in the working precision.
        tolerance: What ``error`` was judged by.
        whole_error: The whole batch's own error in the working precision.
        error_exact: Distance of the micro-batches' gradient when everything is computed in the exact type.
        tolerance_exact: What ``error_exact`` was judged by.
    """

    name: str
    num_values: int
    norm: float
    error: float
    tolerance: float
    whole_error: float
    error_exact: float
    tolerance_exact: float

    @property
    def is_exact(self) -> bool:
        """Whether both errors are within their tolerances."""
        return self.is_right and self.error <= self.tolerance

    @property
    def is_right(self) -> bool:
        """Whether the arithmetic is right, rounding apart."""
        return self.error_exact <= self.tolerance_exact


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether micro-batches come to the whole batch, by how much they miss it, and why.

    Args:
        verdict: ``exact``, ``not exact``, or ``not comparable`` where no comparison means anything.
        parameters: One for each parameter that needs a gradient.
        cause: Why it is not exact; None where it is.
        notes: What else the reader should know.
        num_micro_batches: Micro-batches that the batch was split into.
        precision: The working precision, such as ``float32`` or ``bf16-mixed``.
        exact_type: What errors are measured against: ``float64``, or ``float32`` where the model does not run in it.
        checked: What was compared, such as ``gradient`` or ``parameters after update 2``.
    """

    verdict: Verdict
    parameters: tuple[ParameterError, ...] = ()
    cause: Cause | None = None
    notes: tuple[str, ...] = ()
    num_micro_batches: int = 0
    precision: str = "float32"
    exact_type: str = "float64"
    checked: str = "gradient"
    shares: tuple[tuple[float, float], ...] = field(default=())
    """Expected and measured coefficient of each micro-batch, where they were fitted."""

    @property
    def is_exact(self) -> bool:
        """Whether the verdict is ``exact``."""
        return self.verdict == "exact"

    @property
    def worst(self) -> ParameterError | None:
        """The parameter that misses its tolerance by the largest factor, or comes nearest to it."""
        return max(self.parameters, key=_excess, default=None)

    def to_json(self) -> dict[str, Any]:
        """The result as plain data, for ``json.dumps``."""
        plain = asdict(self)
        for parameter, source in zip(plain["parameters"], self.parameters, strict=True):
            parameter["is_exact"] = source.is_exact
        return {"version": 1, **plain}

    def __str__(self) -> str:
        from gradledger.verifier.text import to_text

        return to_text(self)


def _excess(parameter: ParameterError) -> float:
    pairs = (
        (parameter.error, parameter.tolerance),
        (parameter.error_exact, parameter.tolerance_exact),
    )
    return max(error / tolerance if tolerance else (0.0 if error == 0 else float("inf")) for error, tolerance in pairs)
