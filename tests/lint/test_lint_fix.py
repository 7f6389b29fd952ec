"""``--fix``: what it changes, the auditor then passes; what it cannot mend wholly it leaves alone."""

import runpy
import sys
import warnings

import pytest

import gradledger
from gradledger import cli
from gradledger.errors import UserError
from gradledger.lint import lint_text
from gradledger.lint.fix.edits import Insert, Move, Remove, Replace, edited
from gradledger.lint.fix.mending import fixed
from loops.corpus import loops, name_of

MENDED = {
    "broken/average_every_micro_batch",
    "broken/clip_after_the_step",
    "broken/clip_before_backward",
    "broken/clip_every_micro_batch",
    "broken/clip_scaled_no_unscale",
    "broken/clip_scaled_unscale_too_late",
    "broken/discarded_zero_every_micro_batch",
    "broken/double_divided_in_two_places",
    "broken/horizon_counts_micro_batches",
    "broken/linear_decay_over_micro_batches",
    "broken/log_scaled_loss_averaged",
    "broken/no_scaler_step",
    "broken/retained_for_no_reason",
    "broken/scaler_updated_every_micro_batch",
    "broken/schedule_before_step",
    "broken/scheduler_every_micro_batch",
    "broken/stale_never_zeroed",
    "broken/uneven_tail_full_divisor",
    "broken/unnormalized_never_divided",
    "retold/accelerate_divided_again",
    "retold/accelerate_zero_grad_first",
    "retold/lightning_manual_undivided",
}
"""Loops that must be mended; others may be."""

PROPOSED = {
    name_of(path): (path, fixed(path.read_bytes(), str(path), None, None)) for path in loops("broken", "retold")
}


def test_the_usual_bugs_are_mended():
    assert MENDED - {name for name, (_, proposal) in PROPOSED.items() if proposal} == set()


def test_correct_loops_are_left_alone():
    assert [name_of(path) for path in loops("correct") if fixed(path.read_bytes(), str(path), None, None)] == []


@pytest.mark.parametrize("name", [name for name, (_, proposal) in PROPOSED.items() if proposal])
def test_the_auditor_passes_what_was_mended(name, tmp_path, monkeypatch):
    path, proposal = PROPOSED[name]
    mended = tmp_path / path.name
    mended.write_text(proposal.text)
    monkeypatch.setattr(sys, "argv", [path.name])
    with warnings.catch_warnings(), gradledger.audit() as auditor:
        warnings.simplefilter("ignore")
        runpy.run_path(str(mended), run_name="__main__")
    assert [finding for finding in auditor.findings if finding.severity != "info"] == []


def test_a_name_that_means_nothing_there_is_not_used():
    path = next(path for path in loops("broken") if path.stem == "horizon_onecycle_steps_per_epoch")
    assert fixed(path.read_bytes(), str(path), None, None) is None


UNFIXED = """\
import torch

model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.randn(6, 8, 4):  # a comment stays
    loss = model( x ).square().mean()
    loss.backward()
    optimizer.step()  # so does this one
"""


def run_lint(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["gradledger", "lint", *arguments])
    try:
        cli.main()
        status = 0
    except SystemExit as end:
        status = end.code or 0
    return status, capsys.readouterr()


def test_fix_writes_the_file_and_keeps_its_looks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(UNFIXED)
    status, printed = run_lint(monkeypatch, capsys, "--fix", "train.py")
    assert status == 0
    assert printed.err == "train.py:8: mended GL101 stale-gradient\n"
    assert (tmp_path / "train.py").read_text() == UNFIXED + "    optimizer.zero_grad()\n"


def test_diff_shows_and_changes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(UNFIXED)
    _, printed = run_lint(monkeypatch, capsys, "--diff", "train.py")
    assert printed.out.startswith("--- a/train.py\n+++ b/train.py\n")
    assert printed.out.endswith("+    optimizer.zero_grad()\n")
    assert (tmp_path / "train.py").read_text() == UNFIXED


def test_a_file_that_cannot_be_mended_wholly_is_left_alone():
    dropped = (
        UNFIXED.replace("for x", "for i, x").replace("torch.randn(6", "enumerate(torch.randn(7").replace("4):", "4)):")
    )
    dropped = dropped.replace(".mean()", ".mean() / 3").replace(
        "    optimizer.step()", "    if i % 3 == 2: optimizer.step()"
    )
    found = {finding.rule for finding in lint_text(dropped.encode(), "train.py").findings}
    assert found == {"stale-gradient", "dropped-tail"}
    assert fixed(dropped.encode(), "train.py", None, None) is None


def test_notebooks_are_left_alone():
    assert fixed(UNFIXED.encode(), "train.ipynb", None, None) is None


def test_without_libcst_the_way_to_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "libcst", None)
    with pytest.raises(UserError, match=r"needs libcst: pip install 'gradledger\[fix\]'"):
        fixed(UNFIXED.encode(), "train.py", None, None)


def test_edits_move_insert_remove_and_replace():
    text = "if a:\n    b()  # kept\nc()\nd(1 + 2)\n"
    assert edited(text, [Move(2, "after", 3)]) == "c()\nb()  # kept\nd(1 + 2)\n"
    assert edited(text, [Insert("x()", "before", 3)]) == "if a:\n    b()  # kept\nx()\nc()\nd(1 + 2)\n"
    assert edited(text, [Remove(3)]) == "if a:\n    b()  # kept\nd(1 + 2)\n"
    assert edited(text, [Replace(4, "1 + 2", "3")]) == "if a:\n    b()  # kept\nc()\nd(3)\n"


def test_edits_refuse_a_line_that_is_no_statement_of_its_own():
    assert edited("if a: b()\nc()\n", [Move(1, "after", 2)]) is None
    assert edited("a(); b()\nc()\n", [Remove(1)]) is None
    assert edited("a()\n", [Replace(1, "x", "y")]) is None


def test_a_file_keeps_its_encoding(tmp_path, monkeypatch, capsys):
    source = next(path for path in loops("broken") if path.stem == "stale_never_zeroed").read_text()
    (tmp_path / "train.py").write_bytes(f"# coding: latin-1\n# é\n{source}".encode("latin-1"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gradledger", "lint", "--fix", "train.py"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None), capsys.readouterr()
    assert b"# \xe9\n" in (tmp_path / "train.py").read_bytes()


def test_a_file_that_cannot_be_read_is_passed_over(tmp_path, monkeypatch, capsys):
    (tmp_path / "train.py").symlink_to("/proc/self/mem")
    monkeypatch.setattr(sys, "argv", ["gradledger", "lint", "--fix", str(tmp_path / "train.py")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "cannot be read" in capsys.readouterr().err
