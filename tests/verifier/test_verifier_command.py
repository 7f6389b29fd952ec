"""``gradledger verify``."""

import json

import pytest
import torch
from typer.testing import CliRunner

from gradledger.cli import app
from gradledger.errors import UserError

SOURCE = """
import torch
from torch import nn
from helper_beside_it import seed

seed()

def loss_fn(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])

def right():
    return nn.Linear(4, 3), loss_fn, (torch.randn(10, 4), torch.randint(3, (10,)))

def summed():
    model, _, batch = right()
    total = lambda model, batch: loss_fn(model, batch) * len(batch[0])
    return {"model": model, "loss_fn": total, "batch": batch, "micro_batch_size": 5}

def loop():
    def step_fn(model, optimizer, micro_batches):
        for micro_batch in micro_batches:
            loss_fn(model, micro_batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    model, _, batch = right()
    return {"model": model, "loss_fn": loss_fn, "batch": batch, "micro_batch_size": 5, "step_fn": step_fn}

def failing():
    raise OSError("no data here")

def wrong():
    return 1, 2

def unknown():
    return {"model": 1, "loss_fn": 2, "batch": 3, "steps": 4}
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    path = tmp_path / "training.py"
    path.write_text(SOURCE)
    (tmp_path / "helper_beside_it.py").write_text("import torch\ndef seed():\n    torch.manual_seed(0)\n")
    monkeypatch.setattr("sys.path", __import__("sys").path[:])
    yield path
    for name in ("training", "helper_beside_it"):
        __import__("sys").modules.pop(name, None)


def run(*arguments):
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


def test_exact_is_status_0(script):
    result = run(f"{script}:right", "--micro-batch-size", "4")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("exact: gradient, 3 micro-batches against the whole batch, in float32")
    assert "weight" in result.output


def test_micro_batches_are_uneven_unless_their_size_is_given(script):
    from gradledger.cli.verify import _uneven_size

    assert run(f"{script}:right").output.startswith("exact: gradient, 4 micro-batches")
    assert [_uneven_size(torch.zeros(n, 2)) for n in (1, 2, 3, 4, 6, 8, 9, 32)] == [1, 1, 2, 3, 4, 3, 4, 10]


def test_not_exact_is_status_1_with_the_cause(script):
    result = run(f"{script}:summed")
    assert result.exit_code == 1
    assert "the micro-batches come to 0.500 x the whole batch" in " ".join(result.output.split())


def test_options_override_what_the_callable_says(script):
    result = run(f"{script}:summed", "--reduction", "sum")
    assert result.exit_code == 0, result.output


def test_json_is_all_that_is_printed(script):
    result = run(f"{script}:loop", "--format", "json")
    assert result.exit_code == 1
    answer = json.loads(result.output)
    assert answer["cause"]["message"] == (
        "the gradient is 2.000 x the expected one: not divided by the number of micro-batches"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("failing", "failed: OSError: no data here"),
        ("wrong", "must return (model, loss_fn, batch), or a dict with these keys, not a tuple of 2"),
        ("unknown", "returned the unknown keys steps: it may return model, loss_fn, batch, micro_batch_size"),
        ("missing", "has no callable 'missing'"),
    ],
)
def test_mistakes_are_named(script, name, message):
    result = run(f"{script}:{name}")
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nothing", "'nothing' is no MODULE:CALLABLE, such as train.py:make"),
        ("nowhere.py:make", "there is no file nowhere.py"),
        ("no.such.module:make", "no.such.module cannot be imported: ModuleNotFoundError"),
    ],
)
def test_targets_that_cannot_be_found_are_named(target, message):
    result = run(target)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


def test_a_module_by_its_name(script, monkeypatch):
    monkeypatch.chdir(script.parent)
    assert run("training:right", "--micro-batch-size", "4").exit_code == 0
