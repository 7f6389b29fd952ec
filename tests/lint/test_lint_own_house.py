"""Our own code and examples are clean under our own lint (benchmarks hold wrong loops on purpose)."""

from pathlib import Path

import pytest

from gradledger.lint import lint_paths, lint_text
from gradledger.lint.files.discover import files_below

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", ["src", "examples", "docs"])
def test_our_own_files_are_clean(folder):
    report = lint_paths(files_below([ROOT / folder]))
    assert report.unreadable == []
    assert [finding for finding in report.findings if finding.severity != "info"] == []


def test_a_window_of_the_engine_is_left_to_the_engine():
    source = """
import torch, gradledger

def train(accumulator, model, loader, criterion):
    for window in accumulator.windows(loader, steps=4):
        with window:
            for inputs, labels in window:
                window.backward(criterion(model(inputs), labels))

model = torch.nn.Linear(4, 1)
accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))
train(accumulator, model, [torch.randn(4, 4)] * 6, torch.nn.MSELoss())
"""
    assert lint_text(source.encode(), "train.py").findings == []
