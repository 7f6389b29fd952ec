"""Which files there are to lint: Python files and notebooks below the given paths, less what is ignored."""

from __future__ import annotations

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
            if name.endswith(SUFFIXES) and not _is_ignored(here / name, patterns, is_folder=False):
                yield here / name


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    negated: bool
    folders_only: bool


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
            _Patterns(folder, tuple(_rules_in(own.read_text(encoding="utf-8").splitlines()))),
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
            relative = full.relative_to(group.base).as_posix()
        except ValueError:
            continue
        for rule in group.rules:
            if (is_folder or not rule.folders_only) and rule.pattern.fullmatch(relative):
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
        body = _translated(text.lstrip("/"))
        yield _Rule(re.compile(body if anchored else f"(?:.*/)?{body}"), negated, folders_only)


def _translated(glob: str) -> str:
    """A ``.gitignore`` glob as a regular expression.

    Example:
        >>> bool(re.fullmatch(_translated("build/**/*.py"), "build/a/b/c.py"))
        True
    """
    parts: list[str] = []
    index = 0
    while index < len(glob):
        if glob.startswith("**/", index):
            parts.append("(?:.*/)?")
            index += 3
        elif glob.startswith("**", index):
            parts.append(".*")
            index += 2
        elif glob[index] == "*":
            parts.append("[^/]*")
            index += 1
        elif glob[index] == "?":
            parts.append("[^/]")
            index += 1
        elif glob[index] == "[" and "]" in glob[index:]:
            end = glob.index("]", index)
            inner = glob[index + 1 : end]
            parts.append(f"[{'^' + inner[1:] if inner.startswith('!') else inner}]")
            index = end + 1
        else:
            parts.append(re.escape(glob[index]))
            index += 1
    return "".join(parts)
