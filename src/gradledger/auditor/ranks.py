"""Under torchrun every rank audits itself; the first one of a machine reports for all of them."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gradledger.auditor.reports import Report, read_reports, write_reports
from gradledger.findings import Finding

if TYPE_CHECKING:
    from gradledger.auditor.session import Auditor

_PATIENCE_SECONDS = 60.0
_PATIENCE_WHEN_CUT_SHORT_SECONDS = 5.0
_POLL_SECONDS = 0.05


def local_rank() -> tuple[int, int]:
    """This process's rank on its machine and their number, as torchrun says; ``(0, 1)`` without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0, 1
    return int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def gather(auditor: Auditor, *, is_cut_short: bool = False) -> tuple[list[Finding], bool]:
    """The findings of all ranks of this machine, and whether this process is the one to report them.

    Args:
        auditor: This rank's.
        is_cut_short: The program was interrupted: there is no time to wait long for the others.
    """
    rank, num_ranks = local_rank()
    if num_ranks == 1:
        return auditor.findings, True
    folder = _meeting_place()
    folder.mkdir(parents=True, exist_ok=True)
    if rank != 0:
        write_reports(auditor.reports, folder / f"{rank}.json")
        return [], False
    patience = _PATIENCE_WHEN_CUT_SHORT_SECONDS if is_cut_short else _PATIENCE_SECONDS
    reports = [*auditor.reports, *_wait_for(folder, num_ranks - 1, patience)]
    shutil.rmtree(folder, ignore_errors=True)
    return auditor.merged(reports), True


def _meeting_place() -> Path:
    names = ("TORCHELASTIC_RUN_ID", "MASTER_PORT", "GROUP_RANK", "TORCHELASTIC_RESTART_COUNT")
    key = "-".join(os.environ.get(name, "0") for name in names)
    return Path(tempfile.gettempdir()) / f"gradledger-{os.getuid()}-{os.getppid()}-{key}"


def _wait_for(folder: Path, number: int, patience_seconds: float) -> list[Report]:
    deadline = time.monotonic() + patience_seconds
    while len(paths := sorted(folder.glob("*.json"))) < number and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return [report for path in paths for report in read_reports(path)]
