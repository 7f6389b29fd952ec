"""Lints files: one at a time, or many in parallel."""

from __future__ import annotations

import linecache
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from gradledger.errors import UserError
from gradledger.findings import Finding
from gradledger.lint.files.screen import may_train
from gradledger.lint.files.sources import Source, UnreadableSourceError, source_of
from gradledger.lint.judge import findings_of
from gradledger.lint.predict import predict
from gradledger.reading import read_file

MOST_BYTES = 1 << 24
"""Of a source file or notebook."""

PARALLEL_FROM = 200
"""With fewer files than this, starting processes costs more than it saves."""


@dataclass(slots=True)
class Report:
    """What linting gave.

    Args:
        findings: In source order.
        unreadable: One message for each file that could not be parsed.
        not_analysed: Why parts of files have no prediction.
        num_files: Files looked at.
        sources: The source of each file with findings, by its name.
    """

    findings: list[Finding] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    not_analysed: list[str] = field(default_factory=list)
    num_files: int = 0
    sources: dict[str, Source] = field(default_factory=dict)

    def add(self, other: Report) -> None:
        """Take in another report."""
        self.findings += other.findings
        self.unreadable += other.unreadable
        self.not_analysed += other.not_analysed
        self.num_files += other.num_files
        self.sources.update(other.sources)


def lint_text(
    content: bytes, file: str, select: Iterable[str] | None = None, ignore: Iterable[str] | None = None
) -> Report:
    """Lint one file's content.

    Args:
        content: The bytes of the file.
        file: What findings call it; ``.ipynb`` makes it a notebook.
        select: Only these rules: slugs, codes or families. None: all.
        ignore: Not these.

    Raises:
        UserError: ``select`` or ``ignore`` names no rule.

    Example:
        >>> lint_text(b"import torch", "train.py").findings
        []
    """
    report = Report(num_files=1)
    if not may_train(content):
        return report
    try:
        source = source_of(content, file)
        predictions = predict(source.tree(), file)
    except UnreadableSourceError as error:
        report.unreadable.append(str(error))
        return report
    _show_to_linecache(source)
    report.findings = [_placed(finding, source) for finding in findings_of(predictions, select, ignore)]
    report.not_analysed = [f"{file}: not analysed: {reason}" for reason in predictions.not_analysed]
    report.not_analysed += [
        f"{file}: not judged: {run.entry or 'the module'}: {reason}"
        for runs in predictions.entries.values()
        for run in runs[:1]
        for reason in run.unclear
    ]
    report.sources = {finding.location.file: source for finding in report.findings if finding.location}
    return report


def _placed(finding: Finding, source: Source) -> Finding:
    return replace(finding, location=source.place(finding.location)) if finding.location else finding


def _show_to_linecache(source: Source) -> None:
    """Excerpts and ignoring comments are read through linecache: show it the text that was linted."""
    lines = [line + "\n" for line in source.lines()]
    linecache.cache[source.file] = (len(source.text), None, lines, source.file)


def lint_paths(
    paths: Sequence[Path], select: Sequence[str] | None = None, ignore: Sequence[str] | None = None
) -> Report:
    """Lint files, in parallel where they are many.

    Raises:
        UserError: ``select`` or ``ignore`` names no rule.
    """
    workers = min(os.cpu_count() or 1, 8)
    report = Report()
    if len(paths) < PARALLEL_FROM or workers < 2:
        report.add(_lint_chunk(list(paths), select, ignore))
    else:
        size = max(1, min(64, len(paths) // (workers * 4)))
        chunks = [list(paths[start : start + size]) for start in range(0, len(paths), size)]
        with ProcessPoolExecutor(workers) as pool:
            futures = [pool.submit(_lint_chunk, chunk, select, ignore) for chunk in chunks]
            for future in futures:
                report.add(future.result())
        for source in report.sources.values():
            _show_to_linecache(source)
    return report


def _lint_chunk(paths: list[Path], select: Sequence[str] | None, ignore: Sequence[str] | None) -> Report:
    report = Report()
    for path in paths:
        try:
            content = read_file(path, most_bytes=MOST_BYTES)
        except OSError as error:
            report.unreadable.append(f"{path}: cannot be read: {error.strerror}")
            continue
        except UserError as error:
            report.unreadable.append(str(error))
            continue
        report.add(lint_text(content, str(path), select, ignore))
    return report
