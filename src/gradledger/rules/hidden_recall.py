"""High accuracy hides a class that is hardly ever recognised.

With 2 % positives a model that never says "positive" is right 98 times in 100. Accuracy cannot tell it from a good
one; the recall of each class can: how many of its samples were found.

Judged on the last validation: an accuracy of at least 80 %, and a class with at least 5 samples whose recall is below
one half, even at the upper end of its 95 % confidence interval, and at least 40 points below the accuracy. The message
names the class, its samples, how many of them are missed, and the accuracy of always guessing the commonest class.

Source: the founding guidance "98 % accuracy with 12 % recall"; Wilson, Probable inference (1927), for the interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from gradledger.ledger import Metric
from gradledger.rules._books import Books
from gradledger.rules._metrics import VALIDATION_NAMES, class_names, metric_series
from gradledger.rules._registry import Cause

CODE = "GL804"
SEVERITY = "warning"
FIX = "Judge by recall and precision of each class; weight the loss, resample, or move the decision threshold."

HIGH_ACCURACY = 0.8
LOW_RECALL = 0.5
LEAST_GAP = 0.4
MIN_SUPPORT = 5
_Z = 1.96  # of a two-sided 95 % interval


def check(books: Books) -> Iterator[Cause]:
    """A class with low recall under a high accuracy, in the last validation."""
    metrics = [entry for entry in books.entries if isinstance(entry, Metric)]
    accuracy = metric_series(metrics, "accuracy", VALIDATION_NAMES)
    if not accuracy.values or accuracy.values[-1] < HIGH_ACCURACY:
        return
    supports = {name: _last(metrics, f"support/{name}") for name in class_names(metrics, "support", VALIDATION_NAMES)}
    total = sum(support or 0.0 for support in supports.values())
    missed: list[str] = []
    for name, support in supports.items():
        recall = _last(metrics, f"recall/{name}")
        if recall is None or support is None or support < MIN_SUPPORT:
            continue
        if upper_bound(recall, support) < LOW_RECALL and accuracy.values[-1] - recall >= LEAST_GAP:
            missed.append(
                f"class {name!r} has a recall of {recall:.1%}: {round((1 - recall) * support)} of its {support:.0f} "
                "samples are missed"
            )
    if missed:
        guess = max(support or 0.0 for support in supports.values()) / total
        yield Cause(
            location=accuracy.location,
            message=f"Validation accuracy is {accuracy.values[-1]:.1%}, but {'; '.join(missed)}. Always guessing the "
            f"commonest class would give {guess:.1%}.",
            update=accuracy.updates[-1],
        )


def upper_bound(share: float, count: float) -> float:
    """The upper end of the Wilson interval of a share seen in so many samples.

    Example:
        >>> round(upper_bound(0.12, 50), 3)
        0.238
    """
    center = share + _Z**2 / (2 * count)
    margin = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return (center + margin) / (1 + _Z**2 / count)


def _last(metrics: Sequence[Metric], name: str) -> float | None:
    values = metric_series(metrics, name, VALIDATION_NAMES).values
    return values[-1] if values else None


BAD = """
from gradledger.ledger import Ledger, Metric

ledger = Ledger()
metrics = {"accuracy": 0.98, "recall/benign": 1.0, "recall/malignant": 0.12}
metrics |= {"support/benign": 1960.0, "support/malignant": 40.0}
for name, value in metrics.items():
    ledger.append(Metric(update=100, name=name, value=value, split="validation"))
"""

GOOD = """
from gradledger.ledger import Ledger, Metric

ledger = Ledger()
metrics = {"accuracy": 0.98, "recall/benign": 0.98, "recall/malignant": 0.9}
metrics |= {"support/benign": 1960.0, "support/malignant": 40.0}
for name, value in metrics.items():
    ledger.append(Metric(update=100, name=name, value=value, split="validation"))
"""
