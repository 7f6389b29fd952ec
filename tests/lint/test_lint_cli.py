"""``gradledger lint``: formats, exit statuses, what it reads and what it says of what it cannot read."""

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest

from gradledger import cli

BROKEN = """\
import torch

model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.randn(6, 8, 4):
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
"""
CORRECT = BROKEN + "    optimizer.zero_grad()\n"
SCHEMA = json.loads((Path(__file__).parent / "sarif-schema-2.1.0.json").read_text())


@pytest.fixture
def lint(tmp_path, monkeypatch, capsys):
    """Runs ``gradledger lint ARGUMENTS`` in an empty folder; returns status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["gradledger", "lint", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    return run


def test_text_names_place_rule_line_and_fix(lint, tmp_path):
    (tmp_path / "train.py").write_text(BROKEN)
    status, out, err = lint("train.py")
    assert status == 1
    assert out.startswith("train.py:8:5: GL101 stale-gradient: This step consumes gradients")
    assert "    optimizer.step()\n    B S B S!\n    fix: Zero the gradients once per update" in out
    assert out.endswith("1 error.\n")
    assert err == ""


def test_a_correct_file_ends_in_status_0(lint, tmp_path):
    (tmp_path / "train.py").write_text(CORRECT)
    assert lint("train.py") == (0, "No findings.\n", "")


def test_json_has_the_fixed_keys(lint, tmp_path):
    (tmp_path / "train.py").write_text(BROKEN)
    status, out, _ = lint("--format", "json", ".")
    report = json.loads(out)
    assert status == 1
    assert report["version"] == 1
    finding = report["findings"][0]
    assert (finding["rule"], finding["code"], finding["severity"]) == ("stale-gradient", "GL101", "error")
    assert finding["location"] == {"file": "train.py", "line": 8}


@pytest.mark.parametrize("source", [BROKEN, CORRECT])
def test_sarif_fits_the_schema(lint, tmp_path, source):
    (tmp_path / "train.py").write_text(source)
    _, out, _ = lint("--format", "sarif", ".")
    jsonschema.validate(json.loads(out), SCHEMA)


def test_the_schema_can_refuse(lint, tmp_path):
    (tmp_path / "train.py").write_text(BROKEN)
    log = json.loads(lint("--format", "sarif", ".")[1])
    del log["runs"][0]["results"][0]["message"]
    with pytest.raises(jsonschema.ValidationError, match="'message' is a required property"):
        jsonschema.validate(log, SCHEMA)


def test_github_annotations(lint, tmp_path):
    (tmp_path / "train.py").write_text(BROKEN)
    assert lint("--format", "github", ".")[1].startswith("::error file=train.py,line=8,title=GL101 stale-gradient::")


def test_output_goes_to_a_file(lint, tmp_path):
    (tmp_path / "train.py").write_text(BROKEN)
    status, out, _ = lint("--format", "json", "--output", "report.json", "train.py")
    assert (status, out) == (1, "")
    assert json.loads((tmp_path / "report.json").read_text())["summary"]["error"] == 1


def test_findings_are_sorted_by_file_and_line(lint, tmp_path):
    for name in ("b.py", "a.py"):
        (tmp_path / name).write_text(BROKEN)
    out = lint("b.py", "a.py")[1]
    assert out.index("a.py:8") < out.index("b.py:8")


def test_statistics_count_by_rule(lint, tmp_path):
    (tmp_path / "train.py").write_text(BROKEN)
    assert lint("--statistics", "train.py")[:2] == (1, "     1  GL101 stale-gradient\n")


def test_select_and_ignore(lint, tmp_path):
    (tmp_path / "train.py").write_text(BROKEN)
    assert lint("--select", "GL2", "train.py")[0] == 0
    assert lint("--ignore", "stale-gradient", "train.py")[0] == 0
    assert lint("--select", "GL101", "train.py")[0] == 1


def test_an_unknown_rule_is_named_even_where_nothing_trains(lint, tmp_path):
    (tmp_path / "empty.py").write_text("")
    status, _, err = lint("--select", "stale-gradients", "empty.py")
    assert status == 2
    assert "no rule 'stale-gradients'" in err


def test_a_comment_lets_a_line_alone(lint, tmp_path):
    (tmp_path / "train.py").write_text(BROKEN.rstrip() + "  # gradledger: ignore[stale-gradient]\n")
    assert lint("train.py")[0] == 0


def test_configuration_from_pyproject(lint, tmp_path):
    (tmp_path / "train.py").write_text(BROKEN)
    (tmp_path / "pyproject.toml").write_text('[tool.gradledger]\nignore = ["GL101"]\n')
    assert lint("train.py")[0] == 0
    (tmp_path / "pyproject.toml").write_text('[tool.gradledger]\nexclude = ["train.py"]\n')
    assert lint(".")[0] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[tool.gradledger]\nselekt = ["GL1"]\n', "has no key 'selekt': it takes select, ignore, exclude"),
        ("[tool.gradledger]\nselect = 3\n", "select = 3 must be a list of texts"),
        ("[tool.gradledger\n", "cannot be read"),
    ],
)
def test_a_wrong_configuration_is_one_clear_line(lint, tmp_path, text, message):
    (tmp_path / "pyproject.toml").write_text(text)
    status, _, err = lint(".")
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_file_that_cannot_be_parsed_is_named_and_the_others_are_linted(lint, tmp_path):
    (tmp_path / "bad.py").write_text("import torch\nloss.backward(\n")
    (tmp_path / "train.py").write_text(BROKEN)
    status, out, err = lint(".")
    assert status == 2
    assert "train.py:8:5: GL101" in out
    assert err == "gradledger: bad.py:2: cannot be parsed: '(' was never closed\n"


def test_a_missing_path(lint):
    status, _, err = lint("nowhere.py")
    assert status == 2
    assert "no file or folder 'nowhere.py'" in err


def test_standard_input_under_its_own_name(lint, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=BytesIO(BROKEN.encode())))
    status, out, _ = lint("--stdin-filename", "train.py", "-")
    assert status == 1
    assert out.startswith("train.py:8:5: GL101")


def test_a_notebook_is_one_program_with_places_by_cell(lint, tmp_path):
    head, loop = BROKEN.split("for x", 1)
    cells = [
        {"cell_type": "markdown", "source": ["# Training"]},
        {"cell_type": "code", "source": ["%matplotlib inline\n", "!pip list\n", head]},
        {"cell_type": "code", "source": ("for x" + loop).splitlines(keepends=True)},
    ]
    (tmp_path / "train.ipynb").write_text(json.dumps({"cells": cells}))
    status, out, _ = lint("train.ipynb")
    assert status == 1
    assert out.startswith("train.ipynb#cell3:4:5: GL101")
    log = json.loads(lint("--format", "sarif", "train.ipynb")[1])
    jsonschema.validate(log, SCHEMA)


def test_a_broken_notebook(lint, tmp_path):
    (tmp_path / "train.ipynb").write_text('{"cells": [".backward( torch"]}')
    status, _, err = lint("train.ipynb")
    assert status == 2
    assert "train.ipynb:1: cannot be parsed: not a notebook" in err


def test_verbose_says_what_was_not_analysed(lint, tmp_path):
    (tmp_path / "deep.py").write_text("import torch\ndef f(n):\n    loss.backward()\n    return f(n)\nf(3)\n")
    status, _, err = lint("-v", "deep.py")
    assert status == 0
    assert err.startswith("info: deep.py: not analysed: the module: it recurses too deeply\n")


def test_torch_is_never_imported(tmp_path):
    (tmp_path / "train.py").write_text(BROKEN)
    code = (
        "import sys; sys.argv = ['gradledger', 'lint', '--format', 'sarif', 'train.py']\n"
        "from gradledger.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 1\n"
        "assert not {'torch', 'numpy', 'libcst'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
