"""The communication model: what reducing gradients over ranks costs."""

from __future__ import annotations

from dataclasses import dataclass

from gradledger.errors import UserError


@dataclass(frozen=True, slots=True)
class Link:
    """A ring all-reduce, not overlapped with computation.

    Every rank sends and receives ``2 (R - 1) / R`` of the gradients' bytes in ``2 (R - 1)`` steps:
    ``seconds = 2 (R - 1) / R × bytes / bytes_per_second + 2 (R - 1) × latency``
    (Patarasuk and Yuan, 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations").

    Args:
        bytes_per_second: Of each rank's link, in one direction.
        latency_seconds: Of one step.

    Raises:
        UserError: A number is out of range.

    Example:
        >>> Link(bytes_per_second=1e9, latency_seconds=0.0).all_reduce_seconds(4_000_000_000, num_ranks=2)
        4.0
    """

    bytes_per_second: float = 10e9
    latency_seconds: float = 20e-6

    def __post_init__(self) -> None:
        if not self.bytes_per_second > 0 or self.latency_seconds < 0:
            raise UserError(
                f"a link of {self.bytes_per_second} bytes per second and {self.latency_seconds} seconds of latency "
                "cannot be: give a positive bandwidth and a latency of at least 0"
            )

    def all_reduce_seconds(self, num_bytes: float, num_ranks: int) -> float:
        """The time of one all-reduce."""
        steps = 2 * (num_ranks - 1)
        return steps / num_ranks * num_bytes / self.bytes_per_second + steps * self.latency_seconds
