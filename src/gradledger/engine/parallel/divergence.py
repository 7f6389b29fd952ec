"""Whether the ranks still train one model: what their reduced gradients and parameters come to, compared now and then.

Reductions that silently did not happen (a parameter that a forward left out, torch's static graphs under ``no_sync``)
leave each rank with a gradient of its own, and nothing crashes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradledger.engine.gradients import total_norm
from gradledger.errors import UserError

NUM_MARKS = 4

_NUM_FIRST_UPDATES = 3

_TOLERANCES = {"gradients": 1e-5, "parameters": 1e-4}
"""Relative. Ranks get the same bits from a reduction; unlike machines may round in their own ways, update by update."""

_ADVICE = {
    "gradients": (
        "was every parameter's gradient reduced, and none changed on one rank alone? Parameters that some forward "
        "leaves out without find_unused_parameters=True, and forwards around the wrapper do this"
    ),
    "parameters": (
        "they began unlike, were changed on one rank alone, or an earlier reduction was missed: load the same state on "
        "all ranks"
    ),
}


class RankComparison:
    """Compares ranks that hold copies of the same parameters.

    Args:
        copies: The ranks, by their places in the group, that do: all under DistributedDataParallel, the replicas of
            each part of a sharded model.
        every: Updates between comparisons, after the first three; 0: never, not even in the first.
    """

    def __init__(self, copies: Sequence[Sequence[int]], every: int) -> None:
        self._copies = [group for group in copies if len(group) > 1]
        self._every = every

    def marks(self, parameters: Sequence[Tensor], num_updates: int) -> list[float]:
        """What this rank's gradients and parameters come to; zeros where nothing is compared after so many updates."""
        is_due = self._every and (num_updates < _NUM_FIRST_UPDATES or num_updates % self._every == 0)
        if not is_due or not self._copies:
            return [0.0] * NUM_MARKS
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        return [*_marks_of(gradients), *_marks_of([parameter.detach() for parameter in parameters])]

    def check(self, marks: Sequence[Sequence[float]], name: Callable[[int], str]) -> None:
        """Compare.

        Args:
            marks: Those of each rank.
            name: How a rank is called.

        Raises:
            UserError: They differ; the message names the ranks that do.
        """
        for at, (what, tolerance) in enumerate(_TOLERANCES.items()):
            pairs = [tuple(own[2 * at : 2 * at + 2]) for own in marks]
            for group in self._copies:
                _check_group({place: pairs[place] for place in group}, what, tolerance, name)


def _marks_of(tensors: Sequence[Tensor]) -> tuple[float, float]:
    """The norm, and a sum that signs and places change."""
    if not tensors:
        return 0.0, 0.0
    own = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    own = [tensor.coalesce().values() if tensor.is_sparse else tensor for tensor in own]
    sums = torch.stack([tensor.sum(dtype=torch.float64) for tensor in own]).tolist()
    return float(total_norm(own)), math.fsum(math.cos(at + 1) * value for at, value in enumerate(sums))


def _check_group(pairs: dict[int, tuple[float, ...]], what: str, tolerance: float, name: Callable[[int], str]) -> None:
    if not all(map(math.isfinite, (number for pair in pairs.values() for number in pair))):
        return  # which is another matter, and all ranks know of it

    def agree(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        allowed = tolerance * max(one[0], other[0])
        return all(math.isclose(a, b, rel_tol=tolerance, abs_tol=allowed) for a, b in zip(one, other, strict=True))

    usual = max(pairs.values(), key=lambda pair: sum(agree(pair, other) for other in pairs.values()))
    odd = [name(at) for at, pair in pairs.items() if not agree(pair, usual)]
    if odd:
        listed = ", ".join(f"{name(at)} {pair[0]:.6g}" for at, pair in pairs.items())
        # Of two, nobody can say which one is right.
        which = f"on {', '.join(odd)} from the others" if len(pairs) > 2 else "between ranks"
        raise UserError(
            f"the {what} differ {which} after the reduction (norms: {listed}), so the ranks' models drift apart: "
            f"{_ADVICE[what]}"
        )
