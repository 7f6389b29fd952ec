"""Every Python block of the documentation runs, and the examples do what they say."""

import importlib.util
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Rule pages hold the rules' own examples, which tests/rules runs; the bad ones are wrong on purpose.
BLOCKS = {page.relative_to(ROOT).as_posix(): BLOCK.findall(page.read_text(encoding="utf-8")) for page in PAGES}
RUNNABLE = [name for name, blocks in BLOCKS.items() if blocks and not name.startswith("docs/rules/")]


@pytest.mark.parametrize("page", RUNNABLE)
def test_the_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for number, block in enumerate(BLOCKS[page], start=1):
        exec(compile(block, f"{page}, block {number}", "exec"), namespace)


def test_a_page_with_blocks_is_found():
    assert {"README.md", "ARCHITECTURE.md"} <= set(RUNNABLE)


def test_links_between_pages_lead_somewhere():
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
EXPECTED = {"plain": lambda accuracy: accuracy > 0.9, "token_weights": lambda loss: loss < 3.0,
            "effective_batch": lambda difference: difference < 1e-10}  # fmt: skip


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_is_short(path, tmp_path, monkeypatch, capsys):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert EXPECTED[path.stem](example.main())
    assert capsys.readouterr().out
    assert os.listdir(tmp_path) == []
