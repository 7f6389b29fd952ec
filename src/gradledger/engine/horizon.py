"""How many updates a loader gives: the number that a scheduler's horizon must be."""

from __future__ import annotations

from collections.abc import Sized

from gradledger.engine.grouping import Steps, Tail, check_steps, check_tail
from gradledger.errors import UserError


def num_updates(loader: Sized | int, *, steps: Steps, epochs: int = 1, tail: Tail = "keep") -> int:
    """The number of updates that :meth:`Accumulator.windows` makes of a loader.

    Args:
        loader: A loader with a length, or its number of micro-batches per epoch.
        steps: Micro-batches per window, or a callable of the update's index.
        epochs: Passes over the loader.
        tail: The tail policy, the same as for ``windows``.

    Raises:
        UserError: The loader has no length, or an argument is out of range.

    Example:
        >>> num_updates(63, steps=4, epochs=10)
        160
        >>> num_updates(63, steps=4, epochs=10, tail="carry")
        157
    """
    num_micro_batches = _length(loader)
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
        raise UserError(f"{epochs=} must be a whole number of passes, at least 0")
    policy = check_tail(tail)
    updates, carried = 0, 0
    for _ in range(epochs):
        left = num_micro_batches + carried
        while left >= (wanted := check_steps(steps, updates)):
            left -= wanted
            updates += 1
        carried = left if policy == "carry" else 0
        if left and policy == "keep":
            updates += 1
    return updates


def _length(loader: Sized | int) -> int:
    if isinstance(loader, bool) or (isinstance(loader, int) and loader < 0):
        raise UserError(f"{loader=} must be a number of micro-batches, at least 0")
    length = loader if isinstance(loader, int) else known_length(loader)
    if length is None:
        raise UserError(
            f"a loader of type {type(loader).__name__} has no length, so its updates cannot be counted ahead: "
            "give the number of micro-batches instead"
        )
    return length


def known_length(loader: object) -> int | None:
    """The number of micro-batches in a pass, or None: a DataLoader over a stream has a ``__len__`` that raises."""
    try:
        return len(loader)  # type: ignore[arg-type]  # what has no length says so here
    except (TypeError, NotImplementedError):
        return None
