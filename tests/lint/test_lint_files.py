"""Which files are linted: folders searched, ``.gitignore`` heeded, what cannot hold a training loop turned away."""

import json
import os
from pathlib import Path

import pytest

from gradledger.lint import lint_text
from gradledger.lint.files.discover import files_below
from gradledger.lint.files.screen import may_train
from gradledger.lint.run import lint_paths


def made(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


def names_below(root: Path, exclude=()) -> list[str]:
    return [path.relative_to(root).as_posix() for path in files_below([root], exclude)]


def test_python_files_and_notebooks_sorted_without_the_usual_folders(tmp_path):
    made(tmp_path, "b.py", "a/c.ipynb", "a/d.txt", ".venv/e.py", "node_modules/f.py", "__pycache__/g.py")
    assert names_below(tmp_path) == ["a/c.ipynb", "b.py"]


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ("build/", ["a.py", "b/a.py", "b/data.py"]),
        ("/a.py", ["b/a.py", "b/data.py", "build/x.py"]),
        ("a.py", ["b/data.py", "build/x.py"]),
        ("*.py\n!data.py", ["b/data.py"]),
        ("b/**\n# a comment\n", ["a.py", "build/x.py"]),
        ("**/d?ta.py", ["a.py", "b/a.py", "build/x.py"]),
        ("[ab].py", ["b/data.py", "build/x.py"]),
    ],
)
def test_gitignore(tmp_path, rules, left):
    made(tmp_path, "a.py", "b/a.py", "b/data.py", "build/x.py")
    (tmp_path / ".gitignore").write_text(rules)
    assert names_below(tmp_path) == left


def test_an_inner_gitignore_speaks_of_its_own_folder(tmp_path):
    made(tmp_path, "x.py", "inner/x.py", "inner/y.py")
    (tmp_path / "inner" / ".gitignore").write_text("x.py")
    assert names_below(tmp_path) == ["inner/y.py", "x.py"]


def test_a_file_that_is_named_is_linted_whatever_is_ignored(tmp_path):
    made(tmp_path, "x.py")
    (tmp_path / ".gitignore").write_text("x.py")
    assert files_below([tmp_path / "x.py"]) == [tmp_path / "x.py"]


@pytest.mark.parametrize(
    ("text", "trains"),
    [
        ("import torch\nloss.backward()", True),
        ("import lightning\nclass M:\n    def training_step(self): ...", True),
        ("from transformers import Trainer\nTrainer(model).train()", True),
        ("import torch\nprint(torch.ones(3))", False),
        ("stack.backward()", False),
    ],
)
def test_screen(text, trains):
    assert may_train(text.encode()) == trains


def test_many_files_in_parallel_give_what_one_at_a_time_gives(tmp_path, monkeypatch):
    source = Path(__file__).parents[1] / "loops" / "broken" / "stale_never_zeroed.py"
    for number in range(12):
        (tmp_path / f"{number:02d}.py").write_text(source.read_text() if number % 4 == 0 else "import torch\n")
    paths = files_below([tmp_path])
    alone = lint_paths(paths)
    monkeypatch.setattr("gradledger.lint.run.PARALLEL_FROM", 2)
    monkeypatch.setattr("gradledger.lint.run.os.cpu_count", lambda: 2)
    together = lint_paths(paths)
    assert together.findings == alone.findings
    assert len(alone.findings) == 3
    assert together.num_files == alone.num_files == 12


STALE = (
    "import torch\nmodel = torch.nn.Linear(4, 1)\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    "for x in torch.randn(6, 8, 4):\n    model(x).mean().backward()\n    optimizer.step()\n"
)


def found_in(content, file):
    return [(finding.location.file, finding.location.line) for finding in lint_text(content, file).findings]


@pytest.mark.parametrize("odd", ["\x0b", "\x1c", "\x85", "\u2028", "\x0c"])
def test_lines_are_counted_as_python_counts_them(odd):
    report = lint_text(f"text = 'a{odd}b'\n{STALE}".encode(), "train.py")
    (finding,) = report.findings
    assert report.sources["train.py"].line_at(finding.location) == "    optimizer.step()"


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_all_line_ends_are_read(end):
    assert found_in(STALE.replace("\n", end).encode(), "train.py") == [("train.py", 6)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (STALE.encode() + b"x = 1\n\0", "train.py:8: cannot be parsed: it contains a null byte"),
        (STALE.encode() + b"x = " + b"-" * 5000 + b"1\n", "train.py:1: cannot be parsed: it nests too deeply"),
        (STALE.encode() + b"def f(:\n", "train.py:7: cannot be parsed: invalid syntax"),
        (b"# caf\xe9\n" + STALE.encode(), "train.py:1: cannot be parsed: invalid or missing encoding declaration"),
    ],
)
def test_what_cannot_be_parsed_is_one_message_with_its_line(content, message):
    assert [text.partition(" for ")[0] for text in lint_text(content, "train.py").unreadable] == [message]


def notebook(*cells):
    return json.dumps({"cells": [{"cell_type": "code", "source": cell} for cell in cells]}).encode()


def test_lines_for_ipython_give_way():
    cells = ["%matplotlib inline\nfiles = !ls\nsizes = %sx du\ntorch?\n!pip list", f"%%time\n{STALE}", "%%bash\nls"]
    assert found_in(notebook(*cells), "book.ipynb") == [("book.ipynb#cell2", 7)]


def test_a_line_of_python_that_looks_like_one_for_ipython_stays():
    asked = STALE + "    optimizer.zero_grad()  # needed?\nrest = (7\n  % 3)\n"
    assert found_in(notebook(asked), "book.ipynb") == []
    with_magic = asked.partition("rest")[0] + "!ls\n"
    assert found_in(notebook(with_magic), "other.ipynb") == []


@pytest.mark.parametrize("pattern", ["[z-a].py", "[", "**a" * 40 + "b", "*a" * 60 + "b", "a/" + "**/" * 60 + "b"])
def test_no_pattern_takes_for_ever_or_fails(tmp_path, pattern):
    name = "a" * 150 + ".py"
    (tmp_path / name).write_text("")
    (tmp_path / ".gitignore").write_text(pattern)
    assert files_below([tmp_path]) == [tmp_path / name]


def test_only_files_are_taken_from_a_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe.py")
    os.mkfifo(tmp_path / ".gitignore")
    (tmp_path / "loop.py").symlink_to("loop.py")
    (tmp_path / "endless.py").symlink_to("/dev/zero")
    (tmp_path / "folder.py").mkdir()
    assert files_below([tmp_path]) == []
    assert lint_paths([tmp_path / "endless.py"]).unreadable == [
        f"{tmp_path}/endless.py has more than the 16,777,216 bytes that are read of such a file"
    ]


def test_white_space_in_a_notebook_takes_no_time():
    source = f"x {' ' * 300_000}\n!ls\n{STALE}"
    assert found_in(notebook(source), "book.ipynb")
