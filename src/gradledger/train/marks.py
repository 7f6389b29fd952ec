"""What a run writes into its ledger about its evaluations and its data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.utils.data import TensorDataset

from gradledger.ledger import Entry
from gradledger.metrics import ClassificationMetrics, Evaluation, find_leakage
from gradledger.train.data import Data

_MOST_SAMPLES_COMPARED = 50_000
"""In larger data sets nobody looks for shared samples unasked: it would take longer than a moment."""


def leakage(data: Data, update: int) -> Iterator[Entry]:
    """What training and validation set share, where looking cannot draw random numbers."""
    train, validation = data.train, data.validation
    if not isinstance(train, TensorDataset) or not isinstance(validation, TensorDataset):
        return
    if len(train) + len(validation) <= _MOST_SAMPLES_COMPARED:
        yield from find_leakage(train.tensors[0], validation.tensors[0]).entries(update)


def metric_values(evaluation: Evaluation, class_names: Sequence[str]) -> list[tuple[str, float]]:
    """Names and values for the ledger; those of one class are named such as ``recall/malignant``."""
    record = evaluation.as_record()
    numbers = {name: value for name, value in record.items() if isinstance(value, float | int)}
    values = [(name, float(value)) for name, value in numbers.items()]
    if isinstance(evaluation.metrics, ClassificationMetrics):
        for name in ("precision", "recall", "f1", "support"):
            for class_name, value in zip(class_names, record[name], strict=True):
                values.append((f"{name}/{class_name}", float(value)))
    return values
