"""Groups a loader's micro-batches into windows, reading no further ahead than the window itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Literal, Protocol, get_args

from gradledger.engine.batches.nesting import count_samples
from gradledger.errors import UserError

Tail = Literal["keep", "drop", "carry"]
"""What becomes of the micro-batches at the end of a pass that do not fill a window.

``keep``: they are a shorter window, exact by its own weight. At the end of training nothing is left over.
``drop``: they are read and left out, before any forward. At the end of training they have never been used.
``carry``: they wait (as data, not as gradients) and begin the next pass's first window. At the end of training up to
one window's micro-batches wait unused; make the last pass with ``keep`` to use them.
"""

Steps = int | Callable[[int], int]


class Filling(Protocol):
    """Decides when a window is full."""

    def is_full(self, micro_batches: list[Any]) -> bool:
        """Whether no further micro-batch belongs to the window."""
        ...


class FixedSteps:
    """A window is full with a number of micro-batches, which may depend on the update."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps

    def is_full(self, micro_batches: list[Any]) -> bool:
        """Whether the window has its micro-batches."""
        return len(micro_batches) >= self._num_steps


class FixedSamples:
    """A window is full with the micro-batch that brings it to the effective batch size."""

    def __init__(self, effective_batch_size: int) -> None:
        self._effective_batch_size = effective_batch_size
        self._num_counted = 0
        self._num_samples = 0

    def is_full(self, micro_batches: list[Any]) -> bool:
        """Whether the window has its samples.

        Raises:
            UserError: One micro-batch alone is larger than the effective batch.
        """
        for micro_batch in micro_batches[self._num_counted :]:
            num_samples = count_samples(micro_batch)
            if num_samples > self._effective_batch_size:
                raise UserError(
                    f"effective_batch_size={self._effective_batch_size}, but the loader yields a micro-batch of "
                    f"{num_samples} samples: make the loader's batches smaller, or the effective batch larger"
                )
            self._num_samples += num_samples
        self._num_counted = len(micro_batches)
        return self._num_samples >= self._effective_batch_size


def check_steps(steps: Any, update: int) -> int:
    """The number of micro-batches of the window that makes update number ``update`` (from 0).

    Raises:
        UserError: It is not a whole number, or below 1.
    """
    num_steps = steps(update) if callable(steps) else steps
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
        source = f"steps({update}) returned {num_steps!r}" if callable(steps) else f"steps={num_steps!r}"
        raise UserError(f"{source}: a window holds a whole number of micro-batches, at least 1")
    return num_steps


def check_tail(tail: Any) -> Tail:
    """The tail policy.

    Raises:
        UserError: There is no such policy.
    """
    if tail not in get_args(Tail):
        raise UserError(f"tail={tail!r}: choose one of {', '.join(map(repr, get_args(Tail)))}")
    return tail  # type: ignore[no-any-return]  # one of the literals, as just seen


def group(
    loader: Iterable[Any], next_filling: Callable[[], Filling], tail: Tail, carried: list[Any]
) -> Iterator[list[Any]]:
    """Groups of micro-batches, one a window.

    Args:
        loader: Anything iterable, sized or not.
        next_filling: Gives the next window's filling, at the moment its first micro-batch is wanted.
        tail: What becomes of an unfilled last group.
        carried: Micro-batches that wait from an earlier pass; they come first. Under ``carry`` the tail is left in it.
    """
    filling, micro_batches = next_filling(), list[Any]()
    for micro_batch in chain(_taken(carried), loader):
        micro_batches.append(micro_batch)
        if filling.is_full(micro_batches):
            yield micro_batches
            filling, micro_batches = next_filling(), []
    if micro_batches and tail == "keep":
        yield micro_batches
    elif tail == "carry":
        carried.extend(micro_batches)


def _taken(carried: list[Any]) -> Iterator[Any]:
    """The micro-batches that wait, each gone from the list when it is taken."""
    while carried:
        yield carried.pop(0)
