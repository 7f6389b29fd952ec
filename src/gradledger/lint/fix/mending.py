"""Mends what can be mended safely in place, and offers nothing that does not then lint clean.

For each kind of finding there is a proposal; a file is changed only where all its findings at warning or above are gone
afterwards, no new one appears, and every closed window that can be judged is predicted to balance.
"""

from __future__ import annotations

import difflib
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO

from gradledger.errors import UserError
from gradledger.findings import Finding
from gradledger.lint.files.screen import may_train
from gradledger.lint.files.sources import UnreadableSourceError, source_of
from gradledger.lint.fix.proposals import proposals
from gradledger.lint.fix.state import State

_MAX_ROUNDS = 12


@dataclass(frozen=True, slots=True)
class Fixed:
    """A file that was mended.

    Args:
        text: The new text.
        findings: What is mended.
        diff: The change, as a unified diff.
        encoding: How the file's text is written.
    """

    text: str
    findings: tuple[Finding, ...]
    diff: str
    encoding: str = "utf-8"


def fixed(content: bytes, file: str, select: Iterable[str] | None, ignore: Iterable[str] | None) -> Fixed | None:
    """The file mended; None where there is nothing to mend, or not all of it can be.

    Raises:
        UserError: libcst is not installed.
    """
    if file.endswith(".ipynb") or not may_train(content):
        return None
    _require_libcst()
    try:
        before = source_of(content, file).text
        encoding, _ = tokenize.detect_encoding(BytesIO(content).readline)
        state = State.of(before, file, select, ignore)
    except UnreadableSourceError:
        return None
    mended: list[Finding] = []
    for _ in range(_MAX_ROUNDS):
        if not state.findings:
            break
        better = _one_better(state, file, select, ignore)
        if better is None:
            return None
        mended.append(better[0])
        state = better[1]
    if not mended or state.findings or not state.balances:
        return None
    return Fixed(state.text, tuple(mended), _diff(before, state.text, file), encoding)


def _require_libcst() -> None:
    try:
        import libcst  # noqa: F401
    except ImportError:
        raise UserError("mending files needs libcst: pip install 'gradledger[fix]'") from None


def _one_better(
    state: State, file: str, select: Iterable[str] | None, ignore: Iterable[str] | None
) -> tuple[Finding, State] | None:
    """The first proposal that takes one finding away and adds none."""
    for finding in state.findings:
        for text in proposals(state, finding):
            try:
                after = State.of(text, file, select, ignore)
            except UnreadableSourceError:
                continue
            if len(after.findings) < len(state.findings) and _kinds(after) <= _kinds(state):
                return finding, after
    return None


def _kinds(state: State) -> set[str]:
    return {finding.rule for finding in state.findings}


def _diff(before: str, after: str, file: str) -> str:
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), f"a/{file}", f"b/{file}")
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)
