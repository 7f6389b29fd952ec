"""Read what a run left behind: its metrics, its ledger, its configuration."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from gradledger.errors import UserError
from gradledger.ledger import Ledger, LedgerFormatError, read_ledger
from gradledger.printing import shown
from gradledger.reading import name_of
from gradledger.report.records import checked

METRICS_FILE = "metrics.jsonl"
LEDGER_FILE = "ledger.jsonl"
RANK_LEDGERS = "ledger-rank-*.jsonl"
CONFIG_FILE = "config.yaml"
COMPARE_FILE = "compare.json"

LIVE_SECONDS = 120.0
"""A run without a summary whose metrics were written this recently is still running."""

_COMPARED_LISTS = ("arms", "differences", "in_float64", "statements")

_MAX_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Run:
    """One run directory, read.

    Args:
        name: How the run is called in the report: its directory's name.
        path: The run directory.
        updates: The ``update`` records of metrics.jsonl, in order.
        evaluations: The ``evaluation`` records, in order.
        summary: The ``summary`` record; empty while the run goes on or when it was killed.
        ledger: The run's ledger; empty where it kept none.
        config_text: config.yaml as it stands.
        is_live: The run has no summary yet and was written to a moment ago.
    """

    name: str
    path: Path
    updates: tuple[Mapping[str, Any], ...] = ()
    evaluations: tuple[Mapping[str, Any], ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    config_text: str = ""
    is_live: bool = False

    @property
    def group(self) -> str:
        """What runs that differ only in their seed have in common: the name up to the last slash."""
        return self.name.rpartition("/")[0] or self.name

    def column(self, name: str) -> list[Any]:
        """One field of every update, None where it is missing."""
        return [update.get(name) for update in self.updates]

    def evaluations_on(self, split: str) -> list[Mapping[str, Any]]:
        """The evaluations of one split, in order."""
        return [evaluation for evaluation in self.evaluations if evaluation.get("split") == split]

    @property
    def class_names(self) -> list[str]:
        """The names of the classes; their numbers where the run gave none."""
        names = self.summary.get("class_names")
        if isinstance(names, Sequence) and not isinstance(names, str):
            return [str(name) for name in names]
        for evaluation in self.evaluations:
            if evaluation.get("recall"):
                return [str(index) for index in range(len(evaluation["recall"]))]
        return []


def read_runs(paths: Iterable[str | PathLike[str]]) -> list[Run]:
    """Read run directories; a directory of run directories (as ``gradledger compare`` writes) gives all of its runs.

    Raises:
        UserError: A path holds no run, or a file of a run is damaged.
    """
    runs: list[Run] = []
    for path in map(Path, paths):
        found = list(_run_directories(path, _MAX_DEPTH))
        if not found:
            raise UserError(
                f"{path} holds no run: a run directory has a {METRICS_FILE} or a {LEDGER_FILE}, as `gradledger train` "
                "writes them"
            )
        runs += [read_run(directory, name=_name(directory, path)) for directory in found]
    return _with_unique_names(runs)


def read_run(directory: str | PathLike[str], *, name: str | None = None) -> Run:
    """Read one run directory. A last line cut short by a crash is left out.

    Raises:
        UserError: A file of the run is damaged; the message names the file and the line.
    """
    directory = Path(directory)
    by_kind: dict[str, list[Mapping[str, Any]]] = {"update": [], "evaluation": [], "summary": []}
    metrics = directory / METRICS_FILE
    for record in _read_records(metrics) if metrics.exists() else ():
        by_kind.setdefault(str(record.get("kind")), []).append(record)
    summary = by_kind["summary"][-1] if by_kind["summary"] else {}
    return Run(
        name=name_of(directory) if name is None else name,
        path=directory,
        updates=tuple(by_kind["update"]),
        evaluations=tuple(by_kind["evaluation"]),
        summary=summary,
        ledger=_read_ledgers([directory / LEDGER_FILE, *sorted(directory.glob(RANK_LEDGERS), key=_number_in)]),
        config_text=_read_text(directory / CONFIG_FILE),
        is_live=not summary and metrics.exists() and time.time() - metrics.stat().st_mtime < LIVE_SECONDS,
    )


def read_compare(directory: str | PathLike[str]) -> Mapping[str, Any] | None:
    """The figures that ``gradledger compare`` left in a directory; None where there are none."""
    path = Path(directory) / COMPARE_FILE
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}. Run `gradledger compare` again") from None
    if not isinstance(record, dict):
        return None
    for name in _COMPARED_LISTS:
        if not isinstance(record.get(name) or [], list):
            what = f"{path}: {name} is {shown(record[name])}: it must be a list"
            raise UserError(f"{what}. Run `gradledger compare` again")
    return record


def _run_directories(path: Path, depth: int) -> Iterator[Path]:
    if (path / METRICS_FILE).is_file() or (path / LEDGER_FILE).is_file():
        yield path
    elif depth and path.is_dir():
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.is_symlink():
                yield from _run_directories(child, depth - 1)


def _name(directory: Path, given: Path) -> str:
    return directory.relative_to(given).as_posix() if directory != given else name_of(directory)


def _with_unique_names(runs: list[Run]) -> list[Run]:
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return runs
    return [Run(**{**_fields(run), "name": f"{name_of(run.path.parent)}/{run.name}"}) for run in runs]


def _fields(run: Run) -> dict[str, Any]:
    return {name: getattr(run, name) for name in run.__slots__}


def _read_records(path: Path) -> Iterator[Mapping[str, Any]]:
    lines = _read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            cut_short = number == len(lines)  # a finished line ends in a newline, so this one was being written
            if cut_short:
                return
            raise UserError(f"{path}, line {number} is not JSON: {error}. Take the line out, or train again") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number} is not a JSON object. Take the line out, or train again")
        try:
            yield checked(record)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}. Mend the line or take it out, or train again") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _number_in(path: Path) -> int:
    """The rank in the name of its ledger."""
    digits = "".join(filter(str.isdecimal, path.name))
    return int(digits) if digits else 0


def _read_ledgers(paths: Iterable[Path]) -> Ledger:
    """The ledgers of all ranks in one, each rank's entries together."""
    try:
        return Ledger(entry for path in paths if path.is_file() and path.stat().st_size for entry in read_ledger(path))
    except LedgerFormatError as error:
        raise UserError(f"{error}. Take the line out, or train again") from None
    except OSError as error:
        raise UserError(f"{error.filename or 'a ledger'} cannot be read: {error.strerror}") from None
