"""Findings as people read them in an editor: ``path:line:col: GL101 stale-gradient: message``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from gradledger.findings import Finding
from gradledger.lint.files.sources import Source
from gradledger.printing import printable


def to_text(findings: Sequence[Finding], sources: Mapping[str, Source]) -> str:
    """One paragraph for each finding, in the order given, and a line that counts them."""
    paragraphs = [_paragraph(finding, sources) for finding in findings]
    return printable("\n".join([*paragraphs, summary(findings)]) + "\n")


def _paragraph(finding: Finding, sources: Mapping[str, Source]) -> str:
    location = finding.location
    lines = []
    place = ""
    if location is not None:
        source = sources.get(location.file)
        code = source.line_at(location) if source else ""
        column = len(code) - len(code.lstrip()) + 1
        place = f"{location}:{column}: "
        if code.strip():
            lines.append(f"    {code.strip()}")
    head = f"{place}{finding.code} {finding.rule}: {finding.message}"
    lines += [f"    {line}" for line in finding.evidence]
    if finding.fix:
        lines.append(f"    fix: {finding.fix}")
    return "\n".join([head, *lines, ""])


def summary(findings: Sequence[Finding]) -> str:
    """How many there are of each severity."""
    if not findings:
        return "No findings."
    counts = Counter(finding.severity for finding in findings)
    parts = [f"{counts[name]} {name}{'s' * (counts[name] != 1)}" for name in ("error", "warning") if counts[name]]
    return ", ".join([*parts, *([f"{counts['info']} info"] if counts["info"] else [])]) + "."


def statistics(findings: Sequence[Finding]) -> str:
    """How often each rule was broken, the most frequent first."""
    counts = Counter((finding.code, finding.rule) for finding in findings)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return "".join(f"{count:6d}  {code} {rule}\n" for (code, rule), count in ordered)
