"""Audits the processes that an audited program starts, and brings their findings home.

A child begins with nothing patched (spawn) or with the parent's half-full ledger (fork). So its target is wrapped: the
child audits itself from a clean start and leaves its findings in a folder of the parent's.
"""

from __future__ import annotations

import functools
import multiprocessing.process
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradledger.auditor.reports import Report, read_reports, write_reports

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
        self.reports: list[Report] = []
        self._start: Callable[..., Any] | None = None

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
            self.reports += read_reports(path)

    @property
    def num_updates(self) -> int:
        """Updates that they made."""
        return sum(report.num_updates for report in self.reports)

    @property
    def num_backwards(self) -> int:
        """Their backward calls."""
        return sum(report.num_backwards for report in self.reports)


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
                write_reports(auditor.reports, Path(self.folder) / f"{uuid.uuid4().hex}.json")


def _set_start(start: Callable[..., Any]) -> None:
    setattr(multiprocessing.process.BaseProcess, "start", start)  # noqa: B010  # mypy refuses to assign a method


def _module_of(target: Any) -> str:
    return str(getattr(target, "__module__", None) or "") + "."
