"""Findings as text, JSON, SARIF 2.1.0 and GitHub annotations."""

from __future__ import annotations

import json
import linecache
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Literal, get_args

from gradledger.errors import UserError
from gradledger.findings.finding import SEVERITIES, Finding, in_source_order, worst_first
from gradledger.ledger import DEFAULT_ACCOUNT
from gradledger.printing import make_console, printable

FormatName = Literal["text", "json", "sarif", "github"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)

_STYLES = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}
_SARIF_LEVELS = {"error": "error", "warning": "warning", "info": "note"}
_GITHUB_COMMANDS = {"error": "error", "warning": "warning", "info": "notice"}


def render(
    findings: Sequence[Finding],
    format_name: str = "text",
    *,
    descriptions: Mapping[str, str] | None = None,
    color: bool = False,
    width: int = 100,
) -> str:
    """Write findings in one of the formats, with a newline at the end.

    Args:
        findings: What to write, in any order: text is written worst first, the other formats in source order.
        format_name: ``text``, ``json``, ``sarif`` or ``github``.
        descriptions: What each rule is about, by slug; SARIF carries them.
        color: Text with terminal colours.
        width: Columns of the text form.

    Raises:
        UserError: There is no such format.

    Example:
        >>> finding = Finding(rule="stale-gradient", code="GL101", severity="error", message="consumed twice")
        >>> json.loads(render([finding], "json"))["summary"]["error"]
        1
    """
    if format_name not in FORMATS:
        raise UserError(f"no format {format_name!r}: choose one of {', '.join(FORMATS)}")
    if format_name == "text":
        return _text(worst_first(findings), color, width)
    ordered = in_source_order(findings)
    if format_name == "sarif":
        return _sarif(ordered, descriptions or {})
    writers: dict[str, Callable[[Sequence[Finding]], str]] = {"json": _json, "github": _github}
    return writers[format_name](ordered)


def _text(findings: Sequence[Finding], color: bool, width: int) -> str:
    from rich.padding import Padding
    from rich.text import Text

    buffer = StringIO()
    console = make_console(file=buffer, width=width, force_terminal=color, color_system="standard" if color else None)
    for finding in findings:
        head = Text(f"{_place(finding)}: " if finding.location else "")
        head.append(f"{finding.severity} ", _STYLES[finding.severity])
        head.append(f"{finding.code} {finding.rule}", "bold").append(_how_often(finding))
        console.print(head, soft_wrap=True)
        source = _source_line(finding)
        if source:
            console.print(Text(f"    {source}", "dim"), soft_wrap=True)
        console.print(Padding(Text(finding.message), (0, 0, 0, 4)))
        for line in finding.evidence:
            console.print(Padding(Text(line, "dim"), (0, 0, 0, 6)))
        if finding.fix:
            console.print(Padding(Text("fix: ", "green").append(finding.fix, "default"), (0, 0, 0, 4)))
        console.print()
    console.print(Text(_summary_line(findings), "bold"))
    return "\n".join(line.rstrip() for line in buffer.getvalue().split("\n"))


def _how_often(finding: Finding) -> str:
    account = "" if finding.account == DEFAULT_ACCOUNT else f", account {finding.account}"
    times = f"{finding.count} times, first " if finding.count > 1 else ""
    updates = f"{finding.first_update} update{'' if finding.first_update == 1 else 's'}"
    return f" ({times}after {updates}{account})"


def _source_line(finding: Finding) -> str:
    if finding.location is None:
        return ""
    return linecache.getline(finding.location.file, finding.location.line).strip()


def _summary_line(findings: Sequence[Finding]) -> str:
    if not findings:
        return "No findings."
    counts = _counts(findings)
    parts = [f"{counts[name]} {name}{'s' if counts[name] != 1 else ''}" for name in SEVERITIES if counts[name]]
    return f"{', '.join(parts)}."


def _counts(findings: Sequence[Finding]) -> dict[str, int]:
    found = Counter(finding.severity for finding in findings)
    return {severity: found[severity] for severity in SEVERITIES}


def _json(findings: Sequence[Finding]) -> str:
    report = {
        "version": 1,
        "findings": [_json_finding(finding) for finding in findings],
        "summary": {"total": len(findings), **_counts(findings)},
    }
    return json.dumps(report, indent=2) + "\n"


def _json_finding(finding: Finding) -> dict[str, Any]:
    location = finding.location
    return {
        "rule": finding.rule,
        "code": finding.code,
        "severity": finding.severity,
        "message": finding.message,
        "fix": finding.fix,
        "location": None if location is None else {"file": _path(location.file), "line": location.line},
        "count": finding.count,
        "first_update": finding.first_update,
    }


def _sarif(findings: Sequence[Finding], descriptions: Mapping[str, str]) -> str:
    from gradledger import __version__

    codes = {finding.rule: finding.code for finding in findings}
    driver = {
        "name": "gradledger",
        "version": __version__,
        "rules": [
            {"id": code, "name": slug, "shortDescription": {"text": descriptions.get(slug, slug)}}
            for slug, code in codes.items()
        ],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_sarif_result(finding, list(codes).index(finding.rule)) for finding in findings],
    }
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _sarif_result(finding: Finding, rule_index: int) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": rule_index,
        "level": _SARIF_LEVELS[finding.severity],
        "message": {"text": f"{finding.message} Fix: {finding.fix}" if finding.fix else finding.message},
        "occurrenceCount": finding.count,
        "properties": {"account": finding.account, "firstUpdate": finding.first_update, "evidence": finding.evidence},
    }
    if finding.location is not None:
        artifact = {"uri": _uri(finding.location.file)}
        region = {"startLine": max(1, finding.location.line)}
        result["locations"] = [{"physicalLocation": {"artifactLocation": artifact, "region": region}}]
    return result


def _github(findings: Sequence[Finding]) -> str:
    return "".join(_github_line(finding) + "\n" for finding in findings)


def _github_line(finding: Finding) -> str:
    properties = {"title": f"{finding.code} {finding.rule}"}
    if finding.location is not None:
        properties = {"file": _path(finding.location.file), "line": str(finding.location.line), **properties}
    text = f"{finding.message} Fix: {finding.fix}" if finding.fix else finding.message
    settings = ",".join(f"{name}={_escape(value, ':,')}" for name, value in properties.items())
    return f"::{_GITHUB_COMMANDS[finding.severity]} {settings}::{_escape(text)}"


def _escape(text: str, more: str = "") -> str:
    for character in "%\r\n" + more:
        text = text.replace(character, f"%{ord(character):02X}")
    return printable(text)


def _place(finding: Finding) -> str:
    return "" if finding.location is None else f"{_path(finding.location.file)}:{finding.location.line}"


def _path(file: str) -> str:
    """Relative to the working directory where it lies inside."""
    if not os.path.isabs(file):
        return file
    try:
        relative = os.path.relpath(file)
    except (ValueError, OSError):  # another drive; a working directory that is gone
        return file
    return file if relative.startswith(os.pardir) else relative


def _uri(file: str) -> str:
    path = _path(file)
    return Path(path).as_uri() if os.path.isabs(path) else Path(path).as_posix()
