"""Ledgers as files: a header line, then one JSON object an entry. Appended to, readable after a crash."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import IO, Any, get_args

from gradledger.ledger.book import Ledger
from gradledger.ledger.entries import KINDS, Entry, Location, Reduction
from gradledger.printing import shown

FORMAT_VERSION = 1


class LedgerFormatError(ValueError):
    """A ledger file cannot be read: the message names the file, the line and what is wrong."""


def entry_to_json(entry: Entry) -> str:
    """One line of JSON; fields at their default are left out, non-finite numbers are strings."""
    kind_name = type(entry).__name__
    record: dict[str, Any] = {"kind": kind_name}
    for name, default in _DEFAULTS[kind_name].items():
        value = getattr(entry, name)
        if value != default or type(value) is not type(default):
            record[name] = _plain(value)
    return json.dumps(record, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple) and not isinstance(value, Location):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def entry_from_json(line: str) -> Entry:
    """The inverse of :func:`entry_to_json`.

    Raises:
        ValueError: The line is not an entry; the message says why.
    """
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    kind_name = record.pop("kind", None)
    if not isinstance(kind_name, str) or kind_name not in KINDS:
        raise ValueError(f"unknown kind {shown(kind_name)}: the kinds are {', '.join(KINDS)}")
    readers = _FIELD_READERS[kind_name]
    unknown = record.keys() - readers.keys()
    if unknown:
        raise ValueError(f"{kind_name} has no field {shown(sorted(unknown)[0])}: its fields are {', '.join(readers)}")
    try:
        return KINDS[kind_name](**{name: readers[name](value) for name, value in record.items()})
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{kind_name}: {error}") from None


def write_ledger(entries: Iterable[Entry], path: str | PathLike[str]) -> None:
    """Write entries as a new ledger file."""
    with open(path, "w", encoding="utf-8") as file:
        write_header(file)
        for entry in entries:
            file.write(entry_to_json(entry) + "\n")


def write_header(file: IO[str]) -> None:
    """Begin a ledger file."""
    file.write(json.dumps({"ledger": FORMAT_VERSION}) + "\n")


def read_ledger(path: str | PathLike[str]) -> Ledger:
    """Read a ledger file. A last line cut short by a crash is left out.

    Raises:
        LedgerFormatError: The file is not a ledger, or of a newer format, or a line in it is damaged.
        OSError: The file cannot be opened.
    """
    return Ledger(_read_entries(Path(path)))


def _read_entries(path: Path) -> Iterator[Entry]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise LedgerFormatError(f"{path} is not a ledger: {error}") from None
    _check_header(path, lines[0])
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        try:
            yield entry_from_json(line)
        except ValueError as error:
            cut_short = number == len(lines)  # a finished line ends in a newline, so this one was being written
            if cut_short:
                return
            raise LedgerFormatError(f"{path}, line {number}: {error}") from None


def _check_header(path: Path, line: str) -> None:
    try:
        version = json.loads(line)["ledger"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise LedgerFormatError(f'{path} is not a ledger: its first line must be {{"ledger": 1}}') from None
    if version != FORMAT_VERSION:
        raise LedgerFormatError(f"{path} has ledger format {shown(version)}; this version reads {FORMAT_VERSION}")


def _expect(value: Any, types: type | tuple[type, ...], what: str) -> Any:
    is_stray_bool = isinstance(value, bool) and types is not bool
    if is_stray_bool or not isinstance(value, types):
        raise TypeError(f"{shown(value)} is not {what}")
    return value


def _expect_one_of(value: Any, choices: tuple[str, ...]) -> Any:
    if value not in choices:
        raise TypeError(f"{shown(value)} is not one of {', '.join(choices)}")
    return value


def _read_float(value: Any) -> float:
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    return float(_expect(value, (int, float), "a number"))


def _read_location(value: Any) -> Location:
    if not (isinstance(value, list) and len(value) == 2):
        raise TypeError(f"{shown(value)} is not a location [file, line]")
    return Location(_expect(value[0], str, "a file name"), _expect(value[1], int, "a line number"))


_READERS: dict[str, Any] = {
    "str": lambda value: _expect(value, str, "text"),
    "int": lambda value: _expect(value, int, "a whole number"),
    "bool": lambda value: _expect(value, bool, "true or false"),
    "float": _read_float,
    "tuple[float, ...]": lambda value: tuple(map(_read_float, _expect(value, list, "a list of numbers"))),
    "Location": _read_location,
    "Reduction": lambda value: _expect_one_of(value, get_args(Reduction)),
    "Literal['norm', 'value']": lambda value: _expect_one_of(value, ("norm", "value")),
}


def _reader(annotation: str) -> Any:
    """How a field is read back, by its annotation."""
    read = _READERS[annotation.removesuffix(" | None")]
    if not annotation.endswith(" | None"):
        return read
    return lambda value: None if value is None else read(value)


_DEFAULTS: dict[str, dict[str, Any]] = {
    name: {field.name: field.default for field in fields(kind)} for name, kind in KINDS.items()
}
_FIELD_READERS: dict[str, dict[str, Any]] = {
    name: {field.name: _reader(str(field.type)) for field in fields(kind)} for name, kind in KINDS.items()
}
