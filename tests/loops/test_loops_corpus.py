"""The corpus is what README.md says it is: marked, covering, and able to run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from gradledger.rules import all_rules
from loops import corpus

ALL = corpus.loops()
MARKED = corpus.loops("broken", "retold")

# Shown elsewhere: the learning rules judge metrics, and whether a batch fits a device cannot be shown on every machine.
NOT_IN_CORPUS = {"needless-accumulation", "uneven-ranks"}


def _rules_to_cover() -> list[str]:
    return [rule.slug for rule in all_rules() if not rule.code.startswith("GL8") and rule.slug not in NOT_IN_CORPUS]


def test_corpus_is_large() -> None:
    assert len(corpus.loops("correct")) >= 42
    assert len(corpus.loops("broken")) >= 66
    assert len(corpus.loops("retold")) >= 12


@pytest.mark.parametrize("path", ALL, ids=corpus.name_of)
def test_docstring_says_what_it_shows(path: Path) -> None:
    kind = "Correct: " if path.parent.name == "correct" else "Broken"
    assert corpus.docstring(path).startswith(kind)


@pytest.mark.parametrize("path", ALL, ids=corpus.name_of)
def test_script_stands_alone(path: Path) -> None:
    own_modules = {other.stem for other in ALL} | {"gradledger", "loops", "corpus"}
    source = path.read_text(encoding="utf-8")
    if "from gradledger.integrations." in source:  # another trainer's loop, with our adapter
        own_modules.discard("gradledger")
    assert not corpus.imported_modules(path) & own_modules
    assert "print(" not in source


@pytest.mark.parametrize("path", corpus.loops("correct"), ids=corpus.name_of)
def test_nothing_is_marked_in_a_correct_loop(path: Path) -> None:
    assert list(corpus.markers(path)) == []


@pytest.mark.parametrize("path", MARKED, ids=corpus.name_of)
def test_something_is_marked_in_a_broken_loop(path: Path) -> None:
    assert corpus.expected(path, "audit") or corpus.expected(path, "lint")


def test_every_mark_is_a_rule() -> None:
    marked = {slug for path in MARKED for _, _, slugs in corpus.markers(path) for slug in slugs}
    assert marked - {rule.slug for rule in all_rules()} == set()


def test_each_rule_is_broken_in_two_loops() -> None:
    num_loops = Counter(slug for path in MARKED for slug in {s for _, _, slugs in corpus.markers(path) for s in slugs})
    assert {slug: num_loops[slug] for slug in _rules_to_cover() if num_loops[slug] < 2} == {}


@pytest.mark.parametrize("path", ALL, ids=corpus.name_of)
def test_script_runs_and_leaves_its_weights(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = corpus.run(path)
    assert list(tmp_path.iterdir()) == []
    assert weights
    assert all(isinstance(tensor, torch.Tensor) for tensor in weights)


@pytest.mark.parametrize("name", ["correct/plain_accumulate_modulo", "broken/non_finite_log_of_zero"])
def test_script_is_deterministic(name: str) -> None:
    path = corpus.ROOT / f"{name}.py"
    assert corpus.same_bits(corpus.run(path), corpus.run(path))


def test_same_bits_sees_one_bit() -> None:
    assert corpus.same_bits([torch.tensor([0.0, float("nan")])], [torch.tensor([0.0, float("nan")])])
    assert not corpus.same_bits([torch.tensor([0.0])], [torch.tensor([-0.0])])
    assert not corpus.same_bits([torch.tensor(1.0)], [torch.tensor(1.0 + 2**-23)])
    assert not corpus.same_bits([torch.zeros(1)], [])


def test_markers_are_read_by_tool(tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    script.write_text("a()  # expect: x-y, z\nb()  # expect[lint]: w  # expect[audit]: v\nc('# expect: no')\n")
    assert corpus.expected(script, "audit") == {1: {"x-y", "z"}, 2: {"v"}}
    assert corpus.expected(script, "lint") == {1: {"x-y", "z"}, 2: {"w"}}


@pytest.mark.parametrize("comment", ["# expect stale-gradient", "# expect[ruff]: stale-gradient"])
def test_a_mistyped_marker_is_refused(tmp_path: Path, comment: str) -> None:
    script = tmp_path / "loop.py"
    script.write_text(f"a()  {comment}\n")
    with pytest.raises(ValueError, match=r"line 1: .* is not a marker"):
        corpus.expected(script, "audit")
