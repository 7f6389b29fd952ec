"""Which files are linted: folders searched, ``.gitignore`` heeded, what cannot hold a training loop turned away."""

from pathlib import Path

import pytest

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
