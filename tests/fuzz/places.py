"""Things that are found where a file was expected."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random


def _missing(path: Path) -> None:
    pass


def _to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def _to_an_endless_file(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _to_nothing(path: Path) -> None:
    path.symlink_to("/dev/null")


def _to_what_cannot_be_read(path: Path) -> None:
    path.symlink_to("/proc/self/mem")


def _to_the_folder_above(path: Path) -> None:
    path.symlink_to("..")


def _without_permission(path: Path) -> None:
    path.write_bytes(b"")
    path.chmod(0)


def _with_files(path: Path) -> None:
    path.mkdir()
    (path / "inner.py").write_bytes(b"import torch\n")
    (path / "loop").symlink_to(".")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


ODD: tuple[Callable[[Path], None], ...] = (
    _missing, _to_itself, _to_an_endless_file, _to_nothing, _to_what_cannot_be_read, _to_the_folder_above,
    _without_permission,
    _with_files, _empty, Path.mkdir, os.mkfifo,
)  # fmt: skip


def put_something_odd(path: Path, rng: Random) -> None:
    """Make no file of what was to be one."""
    path.unlink(missing_ok=True)
    rng.choice(ODD)(path)


def odd_name(rng: Random) -> str:
    """A file name that the system allows and nobody expects."""
    return rng.choice(
        ("a b.py", "-v.py", "--help", "\x1b[31m.py", "new\nline.py", "\udcff.py", "é.py", "#cell3.py",
         "x" * 250 + ".py", "[bold].py", "<fuzz-mark>.py", "a:b.py", "%41.py", "..py", "::error::.py", "'.ipynb",
         "\x9b.ipynb")
    )  # fmt: skip
