"""Every loop of the corpus under audit: what is marked is found, nothing else, and the weights are the same bits."""

from pathlib import Path

import pytest

import gradledger
from loops.corpus import expected, loops, name_of, run, same_bits


@pytest.mark.parametrize("path", loops(), ids=name_of)
def test_audit_finds_what_is_marked_and_changes_nothing(path: Path):
    alone = run(path)
    with gradledger.audit() as auditor:
        audited = run(path)
    assert same_bits(alone, audited)
    wanted = expected(path, "audit")
    found: dict[int, set[str]] = {}
    for finding in auditor.findings:
        assert finding.location is not None
        assert finding.location.file == str(path)
        if finding.severity != "info" or finding.rule in wanted.get(finding.location.line, ()):
            found.setdefault(finding.location.line, set()).add(finding.rule)
    assert found == wanted
