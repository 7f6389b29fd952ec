"""The guards of the suite itself: warnings are errors, and a test that leaves something behind fails."""

import os
import threading
import tomllib
import warnings
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from leaks import differences, snapshot

ROOT = Path(__file__).parents[2]


def test_warnings_are_errors():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["tool"]["pytest"]["ini_options"]["filterwarnings"][0] == "error"
    with pytest.raises(UserWarning, match="seen"):
        warnings.warn("seen", UserWarning, stacklevel=1)


class Leak:
    """Leaves one thing behind, and takes it back at the end."""

    def patch(self, undo):
        original = torch.Tensor.backward
        undo(lambda: setattr(torch.Tensor, "backward", original))
        torch.Tensor.backward = lambda *_: None

    def hook(self, undo):
        handle = register_optimizer_step_pre_hook(lambda *_: None)
        undo(handle.remove)

    def environment(self, undo):
        undo(lambda: os.environ.pop("GRADLEDGER_LEAK", None))
        os.environ["GRADLEDGER_LEAK"] = "1"

    def thread(self, undo):
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait, name="leaked")
        thread.start()
        undo(lambda: (stop.set(), thread.join()))

    def mode(self, undo):
        undo(lambda: torch.set_grad_enabled(True))
        torch.set_grad_enabled(False)

    def folder(self, undo):
        here = os.getcwd()
        undo(lambda: os.chdir(here))
        os.chdir("/")


@pytest.mark.parametrize(
    ("leak", "message"),
    [
        (Leak.patch, "torch.Tensor.backward"),
        (Leak.hook, "global optimizer hooks"),
        (Leak.environment, "environment"),
        (Leak.thread, "threads"),
        (Leak.mode, "gradient mode"),
        (Leak.folder, "working folder"),
    ],
)
def test_a_leak_is_noticed(request, leak, message):
    before = snapshot()
    undoers = []
    try:
        leak(Leak(), undoers.append)
        assert [line for line in differences(before, snapshot()) if line.startswith(message)]
    finally:
        for undo in undoers:
            undo()
    assert differences(before, snapshot()) == []
