"""How the losses of a window were scaled, line by line: what the rules about scale ask."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradledger.ledger import Adjust, Backward, Location, Window, Zero
from gradledger.rules._books import Series, num_micro_batches, spans_epochs


def factors_of(window: Window) -> list[tuple[Backward, tuple[float, ...] | None]]:
    """Each consumed backward with every known factor on its loss, later changes of ``.grad`` included."""
    held: list[tuple[Backward, tuple[float, ...] | None]] = []
    is_known = not window.begins_by_hand
    for entry in window.body:
        if isinstance(entry, Backward):
            held.append((entry, _own_factors(entry) if is_known else None))
        elif isinstance(entry, Zero) and not entry.partial:
            held.clear()
            is_known = True
        elif isinstance(entry, Adjust):
            factor = entry.factor
            held = [(b, None if f is None or factor is None else (*f, factor)) for b, f in held]
    return held


def _own_factors(backward: Backward) -> tuple[float, ...] | None:
    if backward.reduction != "mean":
        return None
    if backward.factors is not None:
        return backward.factors
    return None if backward.scale is None else (backward.scale,)


@dataclass(frozen=True, slots=True)
class Scaling:
    """How one line's mean losses were scaled in one window.

    Args:
        window: The window.
        backwards: The line's backward passes that the step consumed.
        factors: Every known factor on each.
        num_micro_batches: Micro-batches among them.
    """

    window: Window
    backwards: tuple[Backward, ...]
    factors: tuple[tuple[float, ...], ...]
    num_micro_batches: int

    @property
    def location(self) -> Location | None:
        """The line."""
        return self.backwards[0].location

    @property
    def total(self) -> float:
        """The sum of the coefficients: 1 where the window is a mean."""
        return math.fsum(math.prod(each) for each in self.factors)

    @property
    def is_mean(self) -> bool:
        """The coefficients add up to 1."""
        return math.isclose(self.total, 1.0, rel_tol=1e-3)

    def divisions_by(self, number: int) -> int:
        """How often, at least, every loss was divided by a number."""
        return min(sum(is_share(factor, number) for factor in each) for each in self.factors)


def scalings(series: Series) -> Iterator[Scaling]:
    """The scaling of every line in every closed window, where it is known.

    Windows that an earlier epoch leaked into, or that lost gradients to a zeroing, are left out: their sums are off for
    that reason, which has a rule of its own.
    """
    for window in series.closed:
        if is_leaked(series, window) or is_robbed(window):
            continue
        lines: dict[Location | None, list[tuple[Backward, tuple[float, ...] | None]]] = {}
        for backward, factors in factors_of(window):
            lines.setdefault(backward.location, []).append((backward, factors))
        for pairs in lines.values():
            known = [factors for _, factors in pairs if factors is not None]
            if len(known) == len(pairs):
                backwards = tuple(backward for backward, _ in pairs)
                size = len({backward.micro_batch for backward in backwards})
                yield Scaling(window, backwards, tuple(known), size)


def by_line(series: Series) -> list[list[Scaling]]:
    """The scalings of each line over all windows.

    Lines that take turns are one: alone none of them is a mean of its window, together they are.
    """
    windows: dict[int, list[Scaling]] = {}
    for scaling in scalings(series):
        windows.setdefault(id(scaling.window), []).append(scaling)
    turns: set[Location | None] = set()
    for group in windows.values():
        if len(group) > 1 and _joined(group).is_mean and not any(each.is_mean for each in group):
            turns.update(each.location for each in group)
    lines: dict[Location | None, list[Scaling]] = {}
    together: list[Scaling] = []
    for group in windows.values():
        takers = [each for each in group if each.location in turns]
        together += [_joined(takers)] if takers else []
        for each in group:
            if each.location not in turns:
                lines.setdefault(each.location, []).append(each)
    return [*lines.values(), together]


def _joined(group: list[Scaling]) -> Scaling:
    return Scaling(
        group[0].window,
        tuple(backward for each in group for backward in each.backwards),
        tuple(factors for each in group for factors in each.factors),
        sum(each.num_micro_batches for each in group),
    )


def is_leaked(series: Series, window: Window) -> bool:
    """The window began in the epoch before and holds more than windows do."""
    return 0 < series.usual_size < num_micro_batches(window) and spans_epochs(window)


def is_robbed(window: Window) -> bool:
    """A zeroing inside the window threw away micro-batches of the same lines as those that it kept."""
    consumed = window.consumed
    lines = {backward.location for backward in consumed}
    return any(b.location in lines for b in window.backwards[: -len(consumed)])


def is_share(factor: float, number: int) -> bool:
    """The factor is one over the number."""
    return math.isclose(factor * number, 1.0, rel_tol=1e-3)
