"""Disks that refuse: full or read only at any operation or from then on, a small one in truth, lost permission."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from faults.disk import refusing, watched_disk
from faults.killing import around_forward
from faults.runs import Around, Case, Tell, Trained, forked, judge, train, train_here, undisturbed, whole
from gradledger.train import Run

OPTIONS = ("on_write_error=stop", "on_write_error=continue")
NOBODY = 65534


def refused_operations(folder: Path, part: float) -> Iterator[Case]:
    """A disk that is full, or read only, for once or from then on: told in one line, and nothing is wrong."""
    expected = whole(folder)
    kinds = [(errno.ENOSPC, True), (errno.ENOSPC, False), (errno.EROFS, False)]
    for at in range(1, 145, max(4, round(4 / part))):
        for number, is_once in kinds:
            for option in OPTIONS:
                disk = watched_disk(refusing(at, number, is_once=is_once))
                yield _then_go_on(folder / f"{number}-{is_once}-{at}-{option}", option, expected, within=disk)


def small_disk(folder: Path, part: float) -> Iterator[Case]:
    """A file system with room for so much of a run; then it grows. Only who may mount one can try."""
    if not _may_mount(folder):
        return
    expected = whole(folder)
    for kibibytes in (0, *range(24, 400, max(24, round(24 / part)))):
        for option in OPTIONS:
            output = folder / f"{kibibytes}-{option}"
            output.mkdir()
            options = f"size={kibibytes}k" if kibibytes else "ro"
            _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(output))
            try:
                yield _then_go_on(output, option, expected, mend=lambda path: _remount(path, "rw,size=4m"))
            finally:
                _run("umount", "--lazy", str(output))


def no_permission(folder: Path, part: float) -> Iterator[Case]:
    """Permission is lost from a forward of the run on, and comes back."""
    expected = whole(folder)
    folder.chmod(0o711)
    for at in range(0, 57, max(6, round(6 / part))):
        for option in OPTIONS:
            output = folder / f"{at}-{option}"
            output.mkdir(mode=0o777 if at else 0o500)
            output.chmod(0o777 if at else 0o500)
            around = around_forward(at, _forbid) if at else undisturbed
            yield _then_go_on(output, option, expected, within=_as_nobody(), around=around, mend=_permit)


def _then_go_on(
    output: Path,
    option: str,
    expected: Any,
    *,
    within: AbstractContextManager[Any] | None = None,
    around: Around = undisturbed,
    mend: Callable[[Path], None] = lambda _: None,
) -> Case:
    """What is refused is told clearly, and what comes after it is what would have come."""

    def refused(tell: Tell) -> Trained:
        with within or nullcontext():
            return train_here(output, option, "checkpoint_every=2", around=around, tell=tell)

    first = forked(refused)
    mend(output)
    if first.how != "done" or first.value.exit == "crashed":
        return Case("hang" if first.how == "hang" else "wrong", note=str(first)[:2000])
    if first.value.exit == "finished" and first.value.came_to == expected:
        return Case("right")
    lines = [text for kind, text in first.told if kind == "line"]
    if first.value.exit != "refused" and not any("cannot be written" in line for line in lines):
        return Case("wrong", note=f"not told: {str(first)[:2000]}")
    last = train(output, "checkpoint_every=2")
    return judge(last, expected, [*first.told, *last.told], refused=True)


def _may_mount(folder: Path) -> bool:
    if shutil.which("mount") is None:
        return False
    probe = folder / "probe"
    probe.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(probe)], capture_output=True).returncode == 0
    if mounted:
        _run("umount", "--lazy", str(probe))
    return mounted


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _remount(path: Path, options: str) -> None:
    _run("mount", "-o", f"remount,{options}", str(path))


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Until this process ends: root may do everything."""
    if os.geteuid() == 0:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    yield


def _forbid(run: Run) -> None:
    directory = Path(run.setup.config.output, "run", "checkpoints")
    directory.chmod(0o500)


def _permit(path: Path) -> None:
    for each in (path, *path.rglob("*")):
        each.chmod(0o777)
