"""The lines of metrics.jsonl: what each field must be, so that nothing else has to ask."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

from gradledger.printing import shown

Check = Callable[[Any], bool]
_MOST_COUNT = 2**63


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (is_number and abs(value) <= sys.float_info.max)


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_COUNT)


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _are_numbers(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(_is_number, value)))


def _are_texts(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _are_named_numbers(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_is_number, value.values())))


def _is_mapping(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _is_square_of_counts(value: Any) -> bool:
    if value is None:
        return True
    rows = value if isinstance(value, list) else [None]
    return all(
        isinstance(row, list) and len(row) == len(rows) and all(item is not None and _is_count(item) for item in row)
        for row in rows
    )


_WORDS: dict[Check, str] = {
    _is_number: "a number or null",
    _is_count: "a whole number of at least 0, or null",
    _is_text: "text or null",
    _is_flag: "true, false or null",
    _are_numbers: "a list of numbers or nulls",
    _are_texts: "a list of texts",
    _are_named_numbers: "an object of numbers",
    _is_mapping: "an object",
    _is_square_of_counts: "a square of whole numbers",
}

_FIELDS: dict[str, dict[str, Check]] = {
    "update": {
        "update": _is_count, "epoch": _is_count, "loss": _is_number, "grad_norm": _is_number, "lr": _is_number,
        "num_samples": _is_count, "num_micro_batches": _is_count, "seconds": _is_number, "skipped": _is_flag,
    },
    "evaluation": {
        "update": _is_count, "epoch": _is_count, "split": _is_text, "loss": _is_number, "accuracy": _is_number,
        "precision": _are_numbers, "recall": _are_numbers, "f1": _are_numbers, "support": _are_numbers,
        "confusion": _is_square_of_counts, "roc_auc": _is_number, "pr_auc": _is_number, "mae": _is_number,
        "rmse": _is_number, "r2": _is_number, "perplexity": _is_number,
    },
    "summary": {
        "task": _is_text, "class_names": _are_texts, "effective_batch": _are_named_numbers, "num_updates": _is_count,
        "num_epochs": _is_count, "seconds": _are_named_numbers, "peak_memory_bytes": _is_number, "device": _is_text,
        "versions": _is_mapping, "exit": _is_text, "reduction": _is_text,
    },
}  # fmt: skip


def checked(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as the rest of the report may rely on it: numbers that are not finite are None.

    Fields that this version does not know are kept.

    Raises:
        ValueError: A field is not what it must be; the message says which and what.
    """
    record = {name: _finite(value) for name, value in record.items()}
    for name, check in _FIELDS.get(str(record.get("kind")), {}).items():
        if name in record and not check(record[name]):
            raise ValueError(f"{name} is {shown(record[name])}: it must be {_WORDS[check]}")
    return record


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value
