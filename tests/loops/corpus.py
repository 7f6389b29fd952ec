"""The corpus of training scripts: where the files are, what is expected of each, how to run one.

Import it from any test as ``from loops.corpus import ...``; README.md beside it says what a loop file is.
"""

from __future__ import annotations

import ast
import ctypes
import io
import os
import re
import runpy
import sys
import tokenize
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import distributed as dist
from torch.distributed import distributed_c10d

Tool = Literal["audit", "lint"]
Folder = Literal["correct", "broken", "retold"]

ROOT = Path(__file__).parent
TOOLS: tuple[Tool, ...] = ("audit", "lint")
FOLDERS: tuple[Folder, ...] = ("correct", "broken", "retold")

_MARKER = re.compile(r"# expect(?:\[(?P<tool>\w+)\])?: (?P<slugs>[a-z-]+(?:, [a-z-]+)*)")


def loops(*folders: Folder) -> list[Path]:
    """The scripts of these folders (of all where none is named), sorted by path."""
    return sorted(path for folder in folders or FOLDERS for path in (ROOT / folder).glob("*.py"))


def name_of(path: Path) -> str:
    """``broken/stale_never_zeroed``: a loop's name in test ids and messages."""
    return f"{path.parent.name}/{path.stem}"


def expected(path: Path, tool: Tool) -> dict[int, set[str]]:
    """The slugs that a tool must report for a script, by line.

    Raises:
        ValueError: A comment starts like a marker but is not one, or names an unknown tool.
    """
    slugs_of_line: dict[int, set[str]] = {}
    for line, only_for, slugs in markers(path):
        if only_for in (None, tool):
            slugs_of_line.setdefault(line, set()).update(slugs)
    return slugs_of_line


def markers(path: Path) -> Iterator[tuple[int, str | None, list[str]]]:
    """Each marker of a script: its line, the only tool that it is meant for (None: both), its slugs."""
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or "expect" not in token.string:
            continue
        found = list(_MARKER.finditer(token.string))
        if not found or any(marker["tool"] not in (None, *TOOLS) for marker in found):
            raise ValueError(f"{path}, line {token.start[0]}: {token.string!r} is not a marker, see README.md")
        for marker in found:
            yield token.start[0], marker["tool"], marker["slugs"].split(", ")


def docstring(path: Path) -> str:
    """The first line of a script, which says what it shows.

    Raises:
        SyntaxError: The script does not parse.
    """
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def imported_modules(path: Path) -> set[str]:
    """The top-level names of the modules that a script imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def run(path: Path) -> list[torch.Tensor]:
    """Run a script as ``__main__`` in this process and return copies of the weights that it leaves.

    Warnings are ignored: what the frameworks say about a broken loop is not under test. State that frameworks keep
    for the life of a process is put back.
    """
    with warnings.catch_warnings(), _fresh_process_state():
        warnings.simplefilter("ignore")
        names = runpy.run_path(str(path), run_name="__main__")
    return [tensor.detach().clone() for tensor in names["trained"]]


def same_bits(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    """Whether two lists of weights are bit for bit equal; a NaN equals itself, as a loop may well end in NaN."""
    return len(left) == len(right) and all(map(_same_bits, left, right))


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def _destroy_in_name_only(group: Any = None) -> None:
    """Take process groups out of use and let the objects live on for the life of the process.

    gloo's threads let go of a finished reduction a moment later, and need the interpreter lock for it; a group whose
    last reference goes meanwhile waits for them while holding that lock, for ever.
    """
    for each in list(distributed_c10d._world.pg_map):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))
    distributed_c10d.destroy_process_group(group)


@contextmanager
def _fresh_process_state() -> Iterator[None]:
    argv, environment, rng_state = sys.argv, os.environ.copy(), torch.get_rng_state()
    sys.argv = ["loop.py"]
    destroy = dist.destroy_process_group
    dist.destroy_process_group = _destroy_in_name_only
    try:
        yield
    finally:
        dist.destroy_process_group = destroy
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)
        torch.set_rng_state(rng_state)
        if accelerate_state := sys.modules.get("accelerate.state"):
            accelerate_state.AcceleratorState._reset_state(reset_partial_state=True)
            accelerate_state.GradientState._reset_state()
