"""The ledger as people think of it: gradients add up over micro-batches, then the weights are updated, then zeroed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gradledger.ledger import Backward, Clip, Entry, EpochStart, Schedule, Step, Zero

HEADER = f"{'update':>7} {'micro-batch':>11} {'samples':>8}  {'what happens':<47} {'loss':>9}"


class LedgerTable:
    """Turns ledger entries into lines, a micro-batch each; keeps what belongs to an unfinished window.

    Example:
        >>> from gradledger.ledger import Backward, Step, Zero
        >>> books = [Backward(micro_batch=n, weight=16.0, loss=2.0) for n in (1, 2)] + [Step(update=0), Zero()]
        >>> for line in LedgerTable().lines(books):
        ...     print(line)
              1           1       16  gradients accumulated                              2.0000
              1           2       16  gradients accumulated, weights updated, zeroed     2.0000
    """

    def __init__(self) -> None:
        self._held: tuple[Backward, list[str]] | None = None
        self._num_steps = 0

    def lines(self, entries: Iterable[Entry]) -> Iterator[str]:
        """Lines for these entries; the last micro-batch of them may be held back until its window closes."""
        for entry in entries:
            if isinstance(entry, Backward):
                yield from self._release()
                self._held = (entry, ["gradients accumulated"])
            elif self._held is not None:
                self._held[1].extend(_deeds(entry))
                if isinstance(entry, Zero):
                    yield from self._release()
            if isinstance(entry, EpochStart):
                yield f"-- epoch {entry.epoch + 1}"

    def _release(self) -> Iterator[str]:
        if self._held is not None:
            backward, deeds = self._held
            self._held = None
            loss = "" if backward.loss is None else f"{backward.loss:.4f}"
            units = "" if backward.weight is None else f"{backward.weight:g}"
            what = ", ".join(deeds)
            yield f"{backward.update + 1:>7} {backward.micro_batch:>11} {units:>8}  {what:<47} {loss:>9}"


def _deeds(entry: Entry) -> list[str]:
    if isinstance(entry, Clip):
        return ["clipped"]
    if isinstance(entry, Step):
        return ["update skipped" if entry.skipped else "weights updated"]
    if isinstance(entry, Schedule):
        return [] if entry.lr is None else [f"lr {entry.lr:.3g}"]
    if isinstance(entry, Zero):
        return ["window voided, zeroed" if entry.void else "zeroed"]
    return []
