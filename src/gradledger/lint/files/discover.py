"""Which files there are to lint: Python files and notebooks below the given paths, less what is ignored."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from gradledger.errors import UserError

SUFFIXES = (".py", ".ipynb")
_NEVER = frozenset(
    {".git", ".hg", ".venv", "venv", ".tox", ".nox", "node_modules", "__pycache__", ".ipynb_checkpoints"}
)


def files_below(paths: Sequence[Path], exclude: Iterable[str] = ()) -> list[Path]:
    """The files to lint, sorted, each once.

    Args:
        paths: Files, taken as they are, and folders, searched for ``.py`` and ``.ipynb``.
        exclude: Patterns as in ``.gitignore``, relative to the working directory.

    Raises:
        UserError: A path does not exist.
    """
    found: dict[Path, None] = {}
    excluded = _Patterns(Path.cwd(), tuple(_rules_in(exclude)))
    for path in paths:
        if path.is_dir():
            for file in _walk(path, excluded):
                found[file] = None
        elif path.exists():
            found[path] = None
        else:
            raise UserError(f"no file or folder {str(path)!r}: give paths that exist")
    return sorted(found)


def _walk(folder: Path, excluded: _Patterns) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        here = Path(root)
        patterns = [excluded, *_ignore_files(here.resolve())]
        folders[:] = sorted(
            name for name in folders if name not in _NEVER and not _is_ignored(here / name, patterns, is_folder=True)
        )
        for name in files:
            if not name.endswith(SUFFIXES) or not (here / name).is_file():
                continue
            if not _is_ignored(here / name, patterns, is_folder=False):
                yield here / name


_Segment = re.Pattern[str] | None
"""What one part of a path must match; None stands for any number of parts."""


@dataclass(frozen=True, slots=True)
class _Rule:
    segments: tuple[_Segment, ...]
    negated: bool
    folders_only: bool

    def matches(self, parts: Sequence[str]) -> bool:
        """Part by part: one expression for a whole path can take for ever on a pattern of many stars."""
        reached = {0}
        for part in parts:
            reached = {after for at in self._passed(reached) for after in self._after(at, part)}
        return len(self.segments) in self._passed(reached)

    def _passed(self, reached: set[int]) -> set[int]:
        """Segments that may stand for no part at all, left out too; but a last one needs a part."""
        passed = set(reached)
        for at, segment in enumerate(self.segments[:-1]):
            if at in passed and segment is None:
                passed.add(at + 1)
        return passed

    def _after(self, at: int, part: str) -> Iterator[int]:
        if at == len(self.segments):
            return
        segment = self.segments[at]
        if segment is None:
            yield at
            if at == len(self.segments) - 1:
                yield at + 1
        elif segment.fullmatch(part):
            yield at + 1


@dataclass(frozen=True, slots=True)
class _Patterns:
    base: Path
    rules: tuple[_Rule, ...]


@lru_cache(maxsize=4096)
def _ignore_files(folder: Path) -> tuple[_Patterns, ...]:
    """The ``.gitignore`` files that speak of a folder: its own and those above, up to the repository's root."""
    own = folder / ".gitignore"
    try:
        here: tuple[_Patterns, ...] = (
            _Patterns(folder, tuple(_rules_in(own.read_text(encoding="utf-8").splitlines() if own.is_file() else []))),
        )
    except (OSError, UnicodeDecodeError):
        here = ()
    if (folder / ".git").exists() or folder.parent == folder:
        return here
    return (*_ignore_files(folder.parent), *here)


def _is_ignored(path: Path, patterns: Sequence[_Patterns], *, is_folder: bool) -> bool:
    ignored = False
    full = path.resolve() if not path.is_absolute() else path
    for group in patterns:
        try:
            relative = full.relative_to(group.base).parts
        except ValueError:
            continue
        for rule in group.rules:
            if (is_folder or not rule.folders_only) and rule.matches(relative):
                ignored = not rule.negated
    return ignored


def _rules_in(lines: Iterable[str]) -> Iterator[_Rule]:
    for line in lines:
        text = line.rstrip()
        if not text or text.startswith("#"):
            continue
        negated = text.startswith("!")
        text = text.removeprefix("!")
        folders_only = text.endswith("/")
        text = text.rstrip("/")
        anchored = "/" in text
        globs = [*([] if anchored else ["**"]), *text.lstrip("/").split("/")]
        segments = tuple(None if glob == "**" else re.compile(fnmatch.translate(glob)) for glob in globs)
        yield _Rule(segments, negated, folders_only)
