"""Our README, documentation and examples are clean under our own audit."""

import importlib.util
import re
from pathlib import Path

import pytest

import gradledger

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BLOCKS = {page.relative_to(ROOT).as_posix(): BLOCK.findall(page.read_text(encoding="utf-8")) for page in PAGES}
TRAINING = [
    name for name, blocks in BLOCKS.items()
    if any("backward" in block or "update(" in block for block in blocks)
    and not any("gradledger.audit(" in block or "gradient_audit" in block for block in blocks)
]  # fmt: skip
# Shown as wrong on the page itself: a loop that is never divided, for `verify_step` to find.
WRONG_ON_PURPOSE = {"docs/verify.md": ["unnormalized-loss"]}
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def worth_telling(auditor):
    return [(f.rule, f"{f.location}: {f.message}") for f in auditor.findings if f.severity != "info"]


@pytest.mark.parametrize("page", TRAINING)
def test_the_training_on_a_page_is_clean(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    with gradledger.audit() as auditor:
        for number, block in enumerate(BLOCKS[page], start=1):
            exec(compile(block, f"{page}, block {number}", "exec"), namespace)
    told = worth_telling(auditor)
    assert [slug for slug, _ in told] == WRONG_ON_PURPOSE.get(page, []), told


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_clean(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    example = importlib.util.module_from_spec(spec)
    with gradledger.audit() as auditor:
        spec.loader.exec_module(example)
        example.main()
    assert auditor.num_backwards
    assert worth_telling(auditor) == []


def test_the_readme_is_among_them():
    assert "README.md" in TRAINING
    assert EXAMPLES
