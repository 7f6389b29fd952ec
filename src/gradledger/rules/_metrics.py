"""The metrics in a ledger, as series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradledger.ledger import Entry, Location, Metric

VALIDATION_NAMES = ("validation", "valid", "val", "test", "eval")


@dataclass(frozen=True, slots=True)
class MetricSeries:
    """The finite values of one metric of one split, with the updates after which they were measured."""

    updates: tuple[int, ...]
    values: tuple[float, ...]
    location: Location | None


def metric_series(entries: Sequence[Entry], name: str, splits: Sequence[str]) -> MetricSeries:
    """Every finite value of a metric, in order; of several of these splits, those of the first that has any."""
    for split in splits:
        found = [
            entry
            for entry in entries
            if isinstance(entry, Metric)
            and entry.name == name
            and entry.split == split
            and entry.scale in (None, 1.0)
            and math.isfinite(entry.value)
        ]
        if found:
            updates, values = zip(*((entry.update, entry.value) for entry in found), strict=True)
            return MetricSeries(updates, values, found[-1].location)
    return MetricSeries((), (), None)


def class_names(entries: Sequence[Entry], name: str, splits: Sequence[str]) -> list[str]:
    """The classes that a metric such as ``recall/malignant`` was reported for, in order of appearance."""
    found = (
        entry.name.partition("/")[2]
        for entry in entries
        if isinstance(entry, Metric) and entry.split in splits and entry.name.startswith(f"{name}/")
    )
    return list(dict.fromkeys(found))
