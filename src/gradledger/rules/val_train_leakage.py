"""Validation samples are also trained on.

A validation set that shares samples with the training set measures memory, not learning: its numbers look better than
they are, and overfitting stays unseen. It happens when a set is oversampled or augmented before it is split, when both
loaders read one file, or when index lists overlap.

Judged on the numbers that `gradledger.metrics.find_leakage` reports: samples of the validation set whose index is also
in the training set (any is too many), and those with an exact or nearly exact copy there (from 1 in 200 on; a few may
be real twins, and data of few distinct values have copies by chance: those are not counted).

Source: the founding guidance "no validation data in training"; Barz and Denzler, Do we train on test data? (2020).
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.rules._books import Books
from gradledger.rules._metrics import VALIDATION_NAMES, metric_series
from gradledger.rules._registry import Cause

CODE = "GL801"
SEVERITY = "warning"
FIX = "Split first, by source where samples come in groups; oversample and augment only the training part afterwards."

LARGEST_SHARE = 1 / 200


def check(books: Books) -> Iterator[Cause]:
    """Shared indices, or too many copies."""
    found = {
        name: metric_series(books.entries, f"leakage/{name}", VALIDATION_NAMES)
        for name in ("num_samples", "num_shared_indices", "num_exact", "num_near")
    }
    last = {name: series.values[-1] for name, series in found.items() if series.values}
    num_samples = last.get("num_samples", 0.0)
    shared = last.get("num_shared_indices", 0.0)
    copies = last.get("num_exact", 0.0) + last.get("num_near", 0.0)
    if not num_samples or (not shared and copies / num_samples < LARGEST_SHARE):
        return
    parts = [
        f"{last[name]:.0f} {words}"
        for name, words in (
            ("num_shared_indices", "have an index of the training set"),
            ("num_exact", "have an exact copy in the training set"),
            ("num_near", "have a nearly exact copy there"),
        )
        if last.get(name)
    ]
    yield Cause(
        location=found["num_samples"].location,
        message=f"Of {num_samples:.0f} validation samples, {', '.join(parts)}.",
        update=found["num_samples"].updates[-1],
    )


BAD = """
import torch

from gradledger.ledger import Ledger
from gradledger.metrics import find_leakage

torch.manual_seed(0)
inputs = torch.randn(100, 8)
oversampled = torch.cat([inputs, inputs[:50]])
order = torch.randperm(150)
ledger = Ledger()
ledger.extend(find_leakage(oversampled[order[:120]], oversampled[order[120:]]).entries())
"""

GOOD = """
import torch

from gradledger.ledger import Ledger
from gradledger.metrics import find_leakage

torch.manual_seed(0)
inputs = torch.randn(100, 8)
order = torch.randperm(100)
train, validation = inputs[order[:80]], inputs[order[80:]]
oversampled = torch.cat([train, train[:50]])
ledger = Ledger()
ledger.extend(find_leakage(oversampled, validation).entries())
"""
