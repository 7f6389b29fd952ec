"""The four formats: text, JSON (the fixed shape), SARIF 2.1.0, GitHub annotations."""

import json

import jsonschema
import pytest

from gradledger.errors import UserError
from gradledger.findings import FORMATS, Finding, render
from gradledger.ledger import Location

STALE = Finding(
    rule="stale-gradient",
    code="GL101",
    severity="error",
    message="100 % consumed, twice:\nonce too often",
    fix="Zero, once.",
    location=Location("train.py", 12),
    count=3,
    first_update=1,
    evidence=("B S B S!",),
)
TAIL = Finding(rule="dropped-tail", code="GL103", severity="warning", message="lost", location=Location("a.py", 4))
NOWHERE = Finding(rule="redundant-zero", code="GL108", severity="info", message="twice")

SARIF_SHAPE = {
    "type": "object",
    "required": ["version", "runs", "$schema"],
    "properties": {
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tool", "results"],
                "properties": {
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {
                                    "rules": {
                                        "type": "array",
                                        "uniqueItems": True,
                                        "items": {"type": "object", "required": ["id"]},
                                    }
                                },
                            }
                        },
                    },
                    "results": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["message"],
                            "properties": {
                                "message": {"type": "object", "required": ["text"]},
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "occurrenceCount": {"type": "integer", "minimum": 1},
                            },
                        },
                    },
                },
            },
        },
    },
}


def test_json_has_the_fixed_shape_in_source_order():
    report = json.loads(render([STALE, NOWHERE, TAIL], "json"))
    assert report["version"] == 1
    assert [f["rule"] for f in report["findings"]] == ["dropped-tail", "stale-gradient", "redundant-zero"]
    assert report["findings"][1] == {
        "rule": "stale-gradient",
        "code": "GL101",
        "severity": "error",
        "message": STALE.message,
        "fix": "Zero, once.",
        "location": {"file": "train.py", "line": 12},
        "count": 3,
        "first_update": 1,
    }
    assert report["findings"][2]["location"] is None
    assert report["summary"] == {"total": 3, "error": 1, "warning": 1, "info": 1}


def test_sarif_holds_to_the_standard():
    report = json.loads(render([STALE, NOWHERE, TAIL], "sarif", descriptions={"stale-gradient": "Old gradient."}))
    jsonschema.validate(report, SARIF_SHAPE)
    run = report["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    stale = next(result for result in run["results"] if result["ruleId"] == "GL101")
    assert stale["locations"][0]["physicalLocation"]["region"] == {"startLine": 12}
    assert stale["locations"][0]["physicalLocation"]["artifactLocation"] == {"uri": "train.py"}
    assert [result["level"] for result in run["results"]] == ["warning", "error", "note"]
    assert {"id": "GL101", "name": "stale-gradient", "shortDescription": {"text": "Old gradient."}} in rules


def test_github_annotations_are_one_line_each_and_escaped():
    lines = render([STALE, TAIL, NOWHERE], "github").splitlines()
    assert lines == [
        "::warning file=a.py,line=4,title=GL103 dropped-tail::lost",
        "::error file=train.py,line=12,title=GL101 stale-gradient::100 %25 consumed, twice:%0Aonce too often "
        "Fix: Zero, once.",
        "::notice title=GL108 redundant-zero::twice",
    ]


def test_text_is_worst_first_with_source_line_evidence_and_fix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "train.py"
    script.write_text("import torch\noptimizer.step()\n")
    text = render([TAIL, Finding(**{**as_dict(STALE), "location": Location(str(script), 2)})], "text")
    assert text.index("stale-gradient") < text.index("dropped-tail")
    for part in ("train.py:2: error GL101", "optimizer.step()", "B S B S!", "fix: Zero, once.", "3 times, first after"):
        assert part in text
    assert text.endswith("1 error, 1 warning.\n")
    assert "\x1b[" not in text
    assert "\x1b[" in render([TAIL], "text", color=True)


def as_dict(finding):
    return {name: getattr(finding, name) for name in finding.__slots__}


@pytest.mark.parametrize("name", FORMATS)
def test_no_findings(name):
    assert render([], name) == "" if name == "github" else render([], name).endswith("\n")


def test_an_unknown_format():
    with pytest.raises(UserError, match="no format 'xml': choose one of text, json, sarif, github"):
        render([], "xml")


def test_files_outside_the_working_folder_keep_their_whole_path(tmp_path, monkeypatch):
    inside = tmp_path / "project"
    inside.mkdir()
    monkeypatch.chdir(inside)
    own = Finding(rule="r", code="GL101", severity="error", message="m", location=Location(str(inside / "a.py"), 1))
    other = Finding(rule="r", code="GL101", severity="error", message="m", location=Location(str(tmp_path / "b.py"), 1))
    files = [f["location"]["file"] for f in json.loads(render([own, other], "json"))["findings"]]
    assert sorted(files) == sorted(["a.py", str(tmp_path / "b.py")])
    assert (tmp_path / "b.py").as_uri() in render([other], "sarif")
