"""Truths of unknown flags: each run of the machine takes one consistent set of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

MAX_FULL_FLAGS = 4
"""With up to this many flags every combination is tried; beyond it, each alone and each against all others."""
MAX_FLAGS = 8


@dataclass(slots=True)
class Choices:
    """The truth of each flag in one run, by how the source names it.

    Args:
        truths: What this run was told to take.
    """

    truths: dict[str, bool] = field(default_factory=dict)
    asked: dict[str, bool] = field(default_factory=dict)
    varying: set[str] = field(default_factory=set)

    def truth(self, flag: str, *, default: bool, varying: bool) -> bool:
        """The truth of a flag, the same throughout the run; what equals one text equals no other."""
        if self._excludes(flag):
            return False
        truth = self.truths.get(flag, self.asked.get(flag, default))
        self.asked.setdefault(flag, truth)
        if varying:
            self.varying.add(flag)
        return truth

    def _excludes(self, flag: str) -> bool:
        subject, equals, text = flag.rpartition(" == ")
        if not equals or text[:1] not in "'\"":
            return False
        return any(
            truth and other != flag and other.startswith(f"{subject}{equals}") for other, truth in self.asked.items()
        )


def alternatives(first: dict[str, bool]) -> Iterator[dict[str, bool]]:
    """The other truths worth a run, given those that the first run took."""
    flags = list(first)[:MAX_FLAGS]
    if len(flags) <= MAX_FULL_FLAGS:
        for values in product((True, False), repeat=len(flags)):
            truths = dict(zip(flags, values, strict=True))
            if any(truths[flag] != first[flag] for flag in flags):
                yield truths
        return
    for flag in flags:
        yield {**{f: first[f] for f in flags}, flag: not first[flag]}
    opposite = {flag: not first[flag] for flag in flags}
    yield opposite
    for flag in flags:
        yield {**opposite, flag: first[flag]}
