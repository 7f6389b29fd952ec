"""Runs a case in a child of this process: a deadline ends it, a limit bounds its memory, its writes are watched."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz.case import Case

MEMORY_BYTES = 3 << 30
"""Address space of a case beyond what the process has already."""

_READ, _TRACE, _HANG, _WRITES = "stdin", "trace", "hang", "writes"
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "shutil.rmtree", "shutil.move", "shutil.copyfile",
}  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a case ended.

    Args:
        status: The exit status; None where the child died of a signal.
        stdout: Standard output.
        stderr: Standard error.
        trace: The exception that came out of the command line; empty where none did.
        hang: Where it was when the deadline passed; empty where it kept it.
        written: Paths outside the case's own folder that were opened for writing or changed.
    """

    status: int | None
    stdout: bytes
    stderr: bytes
    trace: str
    hang: str
    written: tuple[str, ...]


def execute(case: Case, main: Callable[[], None], folder: Path, deadline_seconds: float) -> Ended:
    """Run a case; ``folder`` holds its working directory ``work`` and gets its outputs in ``out``."""
    out = folder / "out"
    out.mkdir()
    (out / _READ).write_bytes(case.stdin)
    child = os.fork()
    if not child:
        _be_the_child(case, main, folder, deadline_seconds)
    _, state = os.waitpid(child, 0)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # processes that it started
    read = {path.name: path.read_bytes() for path in out.iterdir()}
    return Ended(
        status=os.WEXITSTATUS(state) if os.WIFEXITED(state) else None,
        stdout=read.get("stdout", b""),
        stderr=read.get("stderr", b""),
        trace=read.get(_TRACE, b"").decode(errors="replace"),
        hang=read.get(_HANG, b"").decode(errors="replace"),
        written=tuple(sorted(set(json.loads(read.get(_WRITES) or b"[]")))),
    )


def _be_the_child(case: Case, main: Callable[[], None], folder: Path, deadline_seconds: float) -> None:
    """Never returns."""
    status = 70
    out = folder / "out"
    try:
        os.setsid()
        os.chdir(folder / "work")
        os.environ.update(dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), str(folder / "home")))
        tempfile.tempdir = None
        hang = (out / _HANG).open("w")
        faulthandler.dump_traceback_later(deadline_seconds, exit=True, file=hang)
        space = _address_space() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _redirect(case, out)
        written = _watch_writes(folder)
        try:
            status = _call(case, main)
        except BaseException:
            (out / _TRACE).write_text(traceback.format_exc(), encoding="utf-8", errors="replace")
        (out / _WRITES).write_text(json.dumps(written))
    finally:
        os._exit(status)


def _call(case: Case, main: Callable[[], None]) -> int:
    """The status that Python would end with, after it has flushed standard output."""
    try:
        if case.call is None:
            main()
        else:
            _refused_clearly(case.call)
    except SystemExit as request:
        status = request.code
    else:
        status = 0
    if sys.stdout is not None:
        sys.stdout.flush()
    return status if isinstance(status, int) else 0 if status is None else 1


def _refused_clearly(call: Callable[[], object]) -> None:
    try:
        call()
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _redirect(case: Case, out: Path) -> None:
    """Standard streams as a process has them that was started with the case's encoding."""
    for number, name in enumerate((out / _READ, case.stdout or out / "stdout", out / "stderr")):
        opened = os.open(name, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY, 0o666)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = os.fdopen(0, encoding="utf-8")
    sys.stdout = os.fdopen(1, "w", encoding=case.encoding)
    sys.stderr = os.fdopen(2, "w", encoding=case.encoding, errors="backslashreplace", buffering=1)
    for number in case.closed:
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    sys.argv = ["gradledger", *case.arguments]


def _watch_writes(folder: Path) -> list[str]:
    """The paths outside the folder that are written to from now on. What is inside, a snapshot tells."""
    written: list[str] = []
    inside = (*(f"{folder / name}{os.sep}" for name in ("work", "out", "home")), "/dev/", "/proc/self/")

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            is_write = isinstance(flags, int) and bool(flags & _WRITING)
            paths = [path] if is_write and isinstance(path, str | bytes | os.PathLike) else []
        elif event in _CHANGES:
            paths = [each for each in arguments[:2] if isinstance(each, str | bytes | os.PathLike)]
        else:
            return
        for path in map(os.fsdecode, paths):
            full = os.path.abspath(path)
            if not f"{full}/".startswith(inside):
                written.append(full)

    sys.addaudithook(watch)
    return written


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
