"""Fewer points that look the same: what a chart of a long run keeps."""

from __future__ import annotations

from collections.abc import Sequence

MAX_POINTS = 10_000


def kept_indices(values: Sequence[float | None], max_points: int = MAX_POINTS) -> list[int]:
    """The positions to draw: all of them, or the lowest and the highest of each of many equal stretches.

    Spikes survive, which taking every n-th point would lose; the first and the last position are always kept.

    Args:
        values: One number a position; None where there is none.
        max_points: The most positions to keep, at least 4.

    Example:
        >>> kept_indices([0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0], max_points=4)
        [0, 2, 7]
    """
    count = len(values)
    if count <= max_points:
        return list(range(count))
    num_stretches = (max_points - 2) // 2
    kept = {0, count - 1}
    for stretch in range(num_stretches):
        positions = range(stretch * count // num_stretches, (stretch + 1) * count // num_stretches)
        known = [(value, i) for i in positions if (value := values[i]) is not None]
        if known:
            kept.update((min(known)[1], max(known, key=lambda pair: pair[0])[1]))
        else:
            kept.add(positions[0])
    return sorted(kept)
