"""What must hold of every case, whatever its input."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

from fuzz.case import Case, Outcome
from fuzz.executing import Ended

Snapshot = dict[str, tuple[str, int, str]]

MARK = "fuzz-mark"
"""Hostile text holds an element of this name, which no page may have."""

MOST_MESSAGE_CHARACTERS = 4000
"""A message that is longer is not clear."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_TRACEBACK = "Traceback (most recent call last)"


def snapshot(folder: Path) -> Snapshot:
    """Every file and folder below, by its relative path: what it is, its permissions, its content."""
    found: Snapshot = {}
    for root, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(root, name)
            info = os.lstat(path)
            kind = stat.S_IFMT(info.st_mode)
            content = ""
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            elif stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            found[os.path.relpath(path, folder)] = (str(kind), info.st_mode, content)
    return found


def judge(case: Case, ended: Ended, before: Snapshot, after: Snapshot, work: Path) -> Outcome:
    """Whether the case was taken or refused, and what is wrong with how."""
    stdout, stderr = (_decoded(raw, case.encoding) for raw in (ended.stdout, ended.stderr))
    outcome = Outcome(accepted=ended.status not in (None, 2))
    problems = outcome.problems
    if ended.hang:
        problems["hangs"] = ended.hang
    elif (
        ended.trace
        or ended.status is None
        or (_TRACEBACK in stderr + stdout and not _is_of_script(case, ended, stderr))
    ):
        problems["tracebacks"] = ended.trace or stderr or "killed by a signal"
    elif unclear := _unclear(case, ended, stdout, stderr):
        problems["unclear"] = unclear
    changed = [path for path in {*before, *after} if before.get(path) != after.get(path)]
    outside = [path for path in changed if not _may_write(case, path)] + list(ended.written)
    if outside:
        problems["writes outside"] = ", ".join(sorted(outside))
    written = {path: work / path for path in changed if path in after and (work / path).is_file()}
    library = _decoded(_drawing_library().encode(case.encoding, errors="replace"), case.encoding)
    if unescaped := _unescaped(stdout.replace(library, ""), stderr, written):
        problems["unescaped"] = unescaped
    return outcome


def _is_of_script(case: Case, ended: Ended, stderr: str) -> bool:
    """An audited script that fails shows what Python would show: nothing of this package is in it."""
    return case.arguments[:1] == ("audit",) and ended.status == 3 and "gradledger/" not in stderr


def _decoded(raw: bytes, encoding: str) -> str:
    return raw.decode(encoding, errors="replace")


def _unclear(case: Case, ended: Ended, stdout: str, stderr: str) -> str:
    if ended.status not in case.statuses:
        return f"status {ended.status}, which is not documented; {stderr[-300:]}"
    if ended.status == 2 and not stderr.strip() and 2 not in case.closed:
        return "refused without a word"
    if ended.status == 2 and len(stderr) > MOST_MESSAGE_CHARACTERS:
        return f"a message of {len(stderr)} characters: {stderr[:300]}"
    if case.json and ended.status != 2 and not case.stdout and 1 not in case.closed:
        try:
            json.loads(stdout)
        except ValueError as error:
            return f"no JSON ({error}): {stdout[:300]}"
    return ""


def _may_write(case: Case, path: str) -> bool:
    """It is among what may be written, within it, or a folder on the way to it."""
    return any(f"{path}/".startswith(f"{allowed}/") or f"{allowed}/".startswith(f"{path}/") for allowed in case.writes)


def _unescaped(stdout: str, stderr: str, written: dict[str, Path]) -> str:
    for name, text in (("standard output", stdout), ("standard error", stderr)):
        if found := _CONTROL.search(text):
            return f"{name} has {found.group()!r}: {text[max(0, found.start() - 60) : found.end() + 20]!r}"
    for name, path in written.items():
        if path.suffix not in (".html", ".md", ".txt", ".json") or "checkpoints" in path.parts:
            continue
        text = path.read_text(encoding="utf-8", errors="replace").replace(_drawing_library(), "")
        if found := _CONTROL.search(text.replace("\r\n", "\n")):
            return f"{name} has {found.group()!r}: {text[max(0, found.start() - 60) : found.end() + 20]!r}"
        if path.suffix == ".html" and (element := _injected(text)):
            return f"{name} has the element {element}"
    return ""


@cache
def _drawing_library() -> str:
    """What pages hold that is not of this package; it is large."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


class _Elements(HTMLParser):
    """Looks for what hostile text would have a page hold."""

    def __init__(self) -> None:
        super().__init__()
        self.injected = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == MARK or any(name == MARK for name, _ in attrs):
            self.injected = f"<{tag} {attrs}>"


def _injected(page: str) -> str:
    parser = _Elements()
    parser.feed(page)
    parser.close()
    return parser.injected
