"""What other tools read of lint: the pre-commit hook, and the workflow that the documentation shows."""

import re
from pathlib import Path

import typer
import yaml
from typer.main import get_command

from gradledger.cli.lint import lint

ROOT = Path(__file__).parents[2]


def test_the_hook_calls_a_command_that_exists():
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["entry"] == "gradledger lint"
    assert set(hook["types_or"]) == {"python", "jupyter"}
    assert f"id: {hook['id']}" in (ROOT / "docs" / "lint.md").read_text()


def test_every_option_is_documented():
    app = typer.Typer(add_completion=False)
    app.command()(lint)
    options = {name for parameter in get_command(app).params for name in parameter.opts if name.startswith("--")}
    page = (ROOT / "docs" / "lint.md").read_text()
    assert {name for name in options - {"--verbose"} if f"`{name}" not in page} == set()


def test_the_shown_workflow_is_yaml_and_uploads_what_it_writes():
    block = re.search(r"```\n(name: gradledger.*?)```", (ROOT / "docs" / "code-scanning.md").read_text(), re.DOTALL)
    assert block is not None
    steps = yaml.safe_load(block[1])["jobs"]["lint"]["steps"]
    written = next(step["run"] for step in steps if "sarif" in step.get("run", ""))
    assert steps[-1]["with"]["sarif_file"] in written
