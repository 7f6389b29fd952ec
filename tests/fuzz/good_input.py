"""Known-good input of every kind, made once by the commands themselves, for the targets to damage."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fuzz.case import Case
from fuzz.executing import execute

LOOPS = Path(__file__).parents[1] / "loops"
_DEADLINE_SECONDS = 300.0

CONFIG = """\
name: run
output: runs
data: {name: tiny:data, num_samples: 22}
model: {name: mlp, hidden: [4]}
optimizer: {name: sgd, lr: 0.1, momentum: 0.9}
scheduler: {name: cosine}
micro_batch_size: 3
steps: 2
clip_norm: 1.0
epochs: 2
seed: 1
checkpoint_every: 2
"""

TINY = """\
import torch
from torch import nn
from torch.utils.data import TensorDataset


def data(*, num_samples: int = 22):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(min(num_samples, 64), 3, generator=generator)
    labels = (inputs[:, 0] > 0).long()
    return TensorDataset(inputs, labels), TensorDataset(inputs[:6], labels[:6])


def loss_fn(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def make():
    torch.manual_seed(0)
    return nn.Linear(3, 2), loss_fn, (torch.randn(12, 3), torch.arange(12) % 2)
"""

SCRIPT = """\
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(8):
    inputs, labels = torch.randn(4, 3), torch.arange(4) % 2
    loss = nn.functional.cross_entropy(model(inputs), labels)
    loss.backward()
    if step % 4 == 3:
        optimizer.step()
        optimizer.zero_grad()
"""


def make_good_input(folder: Path, main: Callable[[], None]) -> None:
    """Fill a folder: code and a configuration, a run, a comparison, the results of all tools, and sources."""
    place = folder / "work"
    for name in ("work", "home"):
        (folder / name).mkdir(parents=True)
    for name, text in (("tiny.py", TINY), ("script.py", SCRIPT), ("config.yaml", CONFIG)):
        (place / name).write_text(text, encoding="utf-8")

    def listing_modules() -> None:
        try:
            main()
        finally:
            (folder / "modules").write_text("\n".join(sys.modules), encoding="utf-8")

    def do(*arguments: str) -> bytes:
        ended = execute(Case(arguments), listing_modules, folder, _DEADLINE_SECONDS)
        shutil.rmtree(folder / "out")
        if ended.trace or ended.hang or ended.status not in (0, 1):
            raise RuntimeError(
                f"gradledger {' '.join(arguments)} ended with {ended.status}: {ended.trace}{ended.stderr!r}"
            )
        _load_modules(folder / "modules")
        return ended.stdout

    do("train", "config.yaml")
    do("compare", "config.yaml", "--seeds", "1", "--set", "name=compared", "--set", "epochs=1", "--arms", "default")
    results = place / "results"
    results.mkdir()
    for name, arguments in (
        ("audit", ("audit", "--format", "json", "script.py")),
        ("lint", ("lint", "--format", "json", "script.py")),
        ("verify", ("verify", "--format", "json", "tiny:make")),
        ("plan", ("plan", "--format", "json", "tiny:make")),
    ):
        (results / f"{name}.json").write_bytes(do(*arguments))
    sources = place / "sources"
    sources.mkdir()
    for path in sorted(LOOPS.glob("*/*.py")):
        shutil.copy(path, sources / f"{path.parent.name}_{path.name}")
    for path in sorted(LOOPS.glob("broken/*.py"))[::4]:
        (sources / f"{path.stem}.ipynb").write_text(notebook(path.read_text(encoding="utf-8")), encoding="utf-8")


def _load_modules(listing: Path) -> None:
    """Import what a command imported late, so that the forks of this process need not."""
    for name in listing.read_text(encoding="utf-8").split("\n"):
        with suppress(Exception):
            importlib.import_module(name)


def notebook(source: str) -> str:
    """A notebook with a part of a script in each cell."""
    cells = [
        {"cell_type": "code", "source": part.splitlines(keepends=True), "outputs": [], "metadata": {}}
        for part in source.split("\n\n\n")
    ]
    return json.dumps({"cells": [{"cell_type": "markdown", "source": ["# title"]}, *cells], "nbformat": 4})
