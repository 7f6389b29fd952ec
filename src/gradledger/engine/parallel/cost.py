"""What the choice of when to reduce gradients costs: memory until then, and traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gradledger.engine.memory.limits import readable_bytes

SyncPoint = Literal["last", "every"]


@dataclass(frozen=True, slots=True)
class SyncCost:
    """When the ranks reduce a window's gradients, and what that takes on each of them.

    Args:
        sync: With the window's ``last`` micro-batch, or with ``every`` one.
        num_ranks: The ranks.
        num_shards: Over how many of them the model is sharded; 1: each has all of it.
        gradient_bytes: Of one whole set of gradients.

    Example:
        >>> print(SyncCost("last", num_ranks=4, num_shards=1, gradient_bytes=4_000_000))
        sync='last': one all-reduce a window, each of 4 ranks sends 6 MB; no further memory
        >>> print(SyncCost("last", num_ranks=4, num_shards=4, gradient_bytes=4_000_000))
        sync='last': one reduce-scatter a window, each of 4 ranks sends 3 MB; whole gradients take 3 MB more until then
        >>> print(SyncCost("every", num_ranks=4, num_shards=4, gradient_bytes=4_000_000))
        sync='every': one reduce-scatter a micro-batch, each of 4 ranks sends 3 MB; no further memory
    """

    sync: SyncPoint
    num_ranks: int
    num_shards: int
    gradient_bytes: int

    @property
    def held_bytes(self) -> int:
        """Memory that whole gradients take, beside their shard, until they are reduced."""
        if self.sync == "every":
            return 0
        return self.gradient_bytes - self.gradient_bytes // self.num_shards

    @property
    def sent_bytes(self) -> float:
        """What each rank sends in one reduction, by the ring algorithms.

        Source: Patarasuk and Yuan (2009), "Bandwidth optimal all-reduce algorithms for clusters of workstations".
        """
        num_replicas = self.num_ranks // self.num_shards
        scattered = (self.num_shards - 1) / self.num_shards * self.gradient_bytes
        return scattered + 2 * (num_replicas - 1) / num_replicas * self.gradient_bytes / self.num_shards

    def __str__(self) -> str:
        kinds = (["reduce-scatter"] if self.num_shards > 1 else []) + (
            ["all-reduce"] if self.num_shards < self.num_ranks else []
        )
        per = "window" if self.sync == "last" else "micro-batch"
        held = self.held_bytes
        return (
            f"sync={self.sync!r}: one {' and '.join(kinds)} a {per}, each of {self.num_ranks} ranks sends "
            f"{readable_bytes(self.sent_bytes)}; "
            + (f"whole gradients take {readable_bytes(held)} more until then" if held else "no further memory")
        )
