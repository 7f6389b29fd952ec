"""Audits the processes that an audited program starts, and brings their findings home.

A child begins with nothing patched (spawn) or with the parent's half-full ledger (fork). So its target is wrapped: the
child audits itself from a clean start and leaves its findings in a folder of the parent's.
"""

from __future__ import annotations

import functools
import json
import multiprocessing.process
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gradledger.findings import Finding
from gradledger.ledger import Location

_NOT_TRAINING = ("torch.utils.data.", "multiprocessing.", "concurrent.", "joblib.")


class Children:
    """The child processes of one audit.

    Args:
        select: Rules that children are judged by.
        ignore: Rules that they are not.
    """

    def __init__(self, select: list[str] | None, ignore: list[str] | None) -> None:
        self._select = select
        self._ignore = ignore
        self._folder: str | None = None
        self._findings: list[list[Finding]] = []
        self._start: Callable[..., Any] | None = None
        self.num_updates = 0
        self.num_backwards = 0

    def watch(self) -> None:
        """From now on processes that are started are audited."""
        self._start = multiprocessing.process.BaseProcess.start
        original, children = self._start, self

        @functools.wraps(original)
        def start(self: Any) -> None:
            target = getattr(self, "_target", None)
            if target is None or _module_of(target).startswith(_NOT_TRAINING):
                return original(self)
            self._target = children.wrap(target)
            try:
                return original(self)
            finally:
                self._target = target

        _set_start(start)

    def forget(self) -> None:
        """In a forked child: the folder is the parent's to read."""
        if self._start is not None:
            _set_start(self._start)
        self._start = self._folder = None

    def unwatch(self) -> None:
        """Processes are no longer audited; the findings of those that have ended are read."""
        if self._start is not None:
            _set_start(self._start)
            self._start = None
        if self._folder is not None:
            self._read(self._folder)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def wrap(self, target: Callable[..., Any]) -> AuditedTarget:
        """The target with an audit around it."""
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="gradledger-")
        return AuditedTarget(target, self._folder, self._select, self._ignore)

    def _read(self, folder: str) -> None:
        for path in sorted(Path(folder).glob("*.json")):
            report = json.loads(path.read_text(encoding="utf-8"))
            self._findings.append([finding_from_json(record) for record in report["findings"]])
            self.num_updates += report["num_updates"]
            self.num_backwards += report["num_backwards"]

    def merged_with(self, findings: Iterable[Finding]) -> list[Finding]:
        """Findings of this process and of its children, each cause once."""
        return merge_processes([list(findings), *self._findings])


class AuditedTarget:
    """A process's target that audits itself.

    Args:
        target: What the process is to run.
        folder: Where its findings are left.
        select: Rules to judge by.
        ignore: Rules not to.
    """

    def __init__(
        self, target: Callable[..., Any], folder: str, select: list[str] | None, ignore: list[str] | None
    ) -> None:
        self.target = target
        self.folder = folder
        self.select = select
        self.ignore = ignore

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the target under an audit of this process."""
        from gradledger.auditor.session import Auditor, leave_parent

        leave_parent()
        auditor = Auditor(select=self.select, ignore=self.ignore)
        try:
            with auditor:
                return self.target(*args, **kwargs)
        finally:
            if os.path.isdir(self.folder):
                write_report(auditor, Path(self.folder) / f"{uuid.uuid4().hex}.json")


def write_report(auditor: Any, path: Path) -> None:
    """Leave an auditor's findings for another process; the file appears whole or not at all."""
    report = {
        "findings": [asdict(finding) for finding in auditor.findings],
        "num_updates": auditor.num_updates,
        "num_backwards": auditor.num_backwards,
    }
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(report), encoding="utf-8")
    unfinished.replace(path)


def finding_from_json(record: dict[str, Any]) -> Finding:
    """The inverse of a finding's ``asdict`` after a trip through JSON."""
    location = record.pop("location")
    evidence = tuple(record.pop("evidence"))
    return Finding(**record, evidence=evidence, location=Location(*location) if location else None)


def merge_processes(reports: Iterable[list[Finding]]) -> list[Finding]:
    """Findings of several processes that run the same program: one cause is one finding, with the largest count."""
    merged: dict[Any, Finding] = {}
    for finding in (finding for report in reports for finding in report):
        known = merged.get(finding.cause)
        count = max(finding.count, known.count) if known else finding.count
        merged[finding.cause] = replace(known or finding, count=count)
    return list(merged.values())


def _set_start(start: Callable[..., Any]) -> None:
    setattr(multiprocessing.process.BaseProcess, "start", start)  # noqa: B010  # mypy refuses to assign a method


def _module_of(target: Any) -> str:
    return str(getattr(target, "__module__", None) or "") + "."
