"""Plans: predicted memory against real runs, the choice, ranks, and the command."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import gradledger
from gradledger.cli import app
from gradledger.engine.memory.estimating import estimated_peak_bytes
from gradledger.engine.memory.limits import readable_bytes
from gradledger.engine.memory.measuring import Bench, MemoryTracker
from gradledger.errors import UserError
from gradledger.planner import Link, plan
from gradledger.planner.page import as_html, figure
from gradledger.planner.planning import parse_bytes


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(500, 32)
        layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 500)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.layers(self.embedding(ids))).flatten(0, 1)


def perceptron() -> tuple[nn.Module, Any]:
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(), nn.Linear(256, 10))
    return model, (torch.randn(64, 64), torch.randint(10, (64,)))


def convolutions() -> tuple[nn.Module, Any]:
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 49, 10)
    return nn.Sequential(*layers), (torch.randn(64, 3, 16, 16), torch.randint(10, (64,)))


def language() -> tuple[nn.Module, Any]:
    return Language(), (torch.randint(500, (64, 16)), torch.randint(500, (64, 16)))


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1].flatten())


MAKERS = [perceptron, convolutions, language]


@pytest.fixture
def _steady_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Micro-batches take a millisecond and 0.1 per sample, whatever the machine does."""
    monkeypatch.setattr(Bench, "_measured_seconds", lambda _, batch: 1e-3 + 1e-4 * len(batch[0]))
    monkeypatch.setattr("gradledger.planner.planning.optimizer_step_seconds", lambda _: 1e-3)


def real_peak(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any, size: int, **options: Any) -> int:
    """What an update holds at most: all that was there before, its micro-batch, and what it makes."""
    accumulator = gradledger.Accumulator(model, optimizer, **options)
    held = sum(
        t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers(), *(b[:size] for b in batch))
    )
    with MemoryTracker() as tracker:
        accumulator.update(batch, loss_fn, micro_batch_size=size)
        accumulator.update(batch, loss_fn, micro_batch_size=size)
    return held + tracker.peak_bytes


@pytest.mark.usefixtures("_steady_clock")
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("optimizer_type", [torch.optim.SGD, torch.optim.AdamW])
def test_predicted_memory_is_within_5_percent_of_a_real_update(make: Any, optimizer_type: Any) -> None:
    model, batch = make()
    optimizer = optimizer_type(model.parameters(), lr=1e-3)
    found = plan(model, loss_fn, batch, optimizer=optimizer)
    for row in found.rows[1:]:  # BatchNorm refuses some single samples
        real = real_peak(model, optimizer_type(model.parameters(), lr=1e-3), batch, row.micro_batch_size)
        assert row.peak_bytes == pytest.approx(real, rel=0.05), row


@pytest.mark.usefixtures("_steady_clock")
@pytest.mark.parametrize("options", [{"checkpointing": True}, {"accumulate_dtype": torch.float64}, {"offload": "cpu"}])
def test_so_it_is_with_what_saves_memory_and_what_costs_some(options: dict[str, Any]) -> None:
    model, batch = language()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    found = plan(model, loss_fn, batch, optimizer=optimizer, **options)
    plain = plan(model, loss_fn, batch, optimizer=optimizer)
    for row in found.rows[1:]:
        real = real_peak(model, torch.optim.SGD(model.parameters(), lr=1e-3), batch, row.micro_batch_size, **options)
        assert row.peak_bytes == pytest.approx(real, rel=0.05), row
    tight = plan(model, loss_fn, batch, optimizer=optimizer, memory=found.rows[3].peak_bytes, **options)
    assert not tight.rows[-1].is_measured
    assert tight.rows[-1].peak_bytes == pytest.approx(found.rows[-1].peak_bytes, rel=0.05)
    if "checkpointing" in options:
        assert found.rows[-1].peak_bytes < 0.9 * plain.rows[-1].peak_bytes
    assert found.gradients.host == (plain.gradients.device if "offload" in options else 0)
    assert found.gradients.for_accumulate_dtype == (plain.gradients.device if "accumulate_dtype" in options else 0)
    assert all(parameter.grad_dtype == parameter.dtype for parameter in model.parameters())


@pytest.mark.usefixtures("_steady_clock")
@pytest.mark.parametrize("make", MAKERS)
def test_memory_that_is_estimated_without_data_is_that_of_a_run(make: Any) -> None:
    model, batch = make()
    bench = Bench(model, list(model.parameters()), loss_fn)
    before = torch.get_rng_state()
    assert estimated_peak_bytes(model, list(model.parameters()), bench, batch) == bench.peak_bytes(batch)
    assert torch.equal(torch.get_rng_state(), before)
    looks = Bench(model, list(model.parameters()), lambda m, b: loss_fn(m, b) * float(b[1].sum().item() > 0))
    assert estimated_peak_bytes(model, list(model.parameters()), looks, batch) is None


@pytest.mark.usefixtures("_steady_clock")
def test_sizes_that_do_not_fit_are_predicted_and_not_chosen() -> None:
    model, batch = convolutions()
    optimizer = torch.optim.Adam(model.parameters())
    roomy = plan(model, loss_fn, batch, effective_batch_size=256, optimizer=optimizer)
    assert roomy.verdict == "your hardware fits the whole batch: do not accumulate"
    limit = roomy.rows[4].peak_bytes
    tight = plan(model, loss_fn, batch, effective_batch_size=256, optimizer=optimizer, memory=limit)
    assert [row.fits for row in tight.rows] == [row.peak_bytes <= limit for row in tight.rows]
    assert tight.recommended is not None
    assert (tight.recommended.micro_batch_size, tight.recommended.num_micro_batches) == (16, 16)
    assert "accumulate 16 micro-batches of 16" in tight.verdict
    for predicted, measured in zip(tight.rows, roomy.rows, strict=True):
        assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=0.05)
    assert not tight.rows[-1].is_measured
    none = plan(model, loss_fn, batch, memory=1000)
    assert none.recommended is None
    assert "not even a micro-batch of 1 fits" in none.verdict


def test_the_fastest_is_chosen_and_the_smaller_of_equals(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = perceptron()
    seconds = {1: 1.0, 2: 1.2, 4: 1.3, 8: 2.0, 16: 3.96, 32: 8.0, 64: 31.68}
    monkeypatch.setattr(Bench, "_measured_seconds", lambda _, batch: seconds[len(batch[0])])
    found = plan(model, loss_fn, batch, max_seconds=1000.0)
    assert found.recommended is not None
    assert found.recommended.micro_batch_size == 8  # within 3 % of 16
    assert "the whole batch fits too, but takes 1.98 × the time" in found.verdict


@pytest.mark.usefixtures("_steady_clock")
def test_ranks_share_the_batch_and_pay_for_communication() -> None:
    model, batch = perceptron()
    link = Link(bytes_per_second=1e6, latency_seconds=1e-3)
    limit = plan(model, loss_fn, batch).rows[3].peak_bytes  # micro-batches of 8
    found = plan(model, loss_fn, batch, num_ranks=4, link=link, memory=limit)
    num_bytes = sum(p.numel() * 4 for p in model.parameters())
    assert [row.num_ranks for row in found.ranks] == [1, 2, 4]
    for row in found.ranks:
        own = 64 // row.num_ranks
        compute = own / 8 * (1e-3 + 1e-4 * 8)
        reduce = 2 * (row.num_ranks - 1) / row.num_ranks * num_bytes / 1e6 + 2 * (row.num_ranks - 1) * 1e-3
        assert row.num_micro_batches == own // 8
        assert row.seconds_with_no_sync == pytest.approx(compute + reduce)
        assert row.seconds_without_no_sync == pytest.approx(compute + own // 8 * reduce)


@pytest.mark.usefixtures("_steady_clock")
def test_planning_changes_nothing() -> None:
    model, batch = convolutions()
    optimizer = torch.optim.Adam(model.parameters())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    plan(model, loss_fn, batch, optimizer=optimizer)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not optimizer.state
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "much"}, "'much' is no amount of memory"),
        ({"memory": 0}, "no amount of memory"),
        ({"effective_batch_size": 0}, "effective_batch_size=0 must be a whole number"),
        ({"num_ranks": 1.5}, "num_ranks=1.5 must be a whole number"),
        ({"precision": "half"}, "precision='half'"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    model, batch = perceptron()
    with pytest.raises(UserError, match=message):
        plan(model, loss_fn, batch, **options)
    with pytest.raises(UserError, match="a link of 0 bytes"):
        Link(bytes_per_second=0)
    with pytest.raises(UserError, match="nothing to plan for"):
        plan(model.requires_grad_(False), loss_fn, batch)


def test_amounts_of_memory_are_read() -> None:
    assert [parse_bytes(text) for text in ("24GB", "512MiB", "7", 7, "1.5 kB".upper())] == [
        24 * 10**9,
        512 * 2**20,
        7,
        7,
        1500,
    ]


SOURCE = """
import torch
from torch import nn

def make():
    model = nn.Linear(8, 2)
    loss_fn = lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1])
    batch = torch.randn(16, 8), torch.randint(2, (16,))
    return {"model": model, "loss_fn": loss_fn, "batch": batch, "optimizer": torch.optim.Adam(model.parameters())}
"""


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    import sys

    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "made_for_plan.py"
    path.write_text(SOURCE)
    yield f"{path}:make"
    sys.modules.pop("made_for_plan", None)


@pytest.mark.usefixtures("_steady_clock")
def test_the_command_writes_text_json_and_a_page(target: str, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["plan", target, "--effective-batch", "32", "--ranks", "2"])
    assert run.exit_code == 0, run.output
    for expected in ("Effective batch 32", "→ 32", "do not accumulate", "Predicted on more ranks", "ring all-reduce"):
        assert expected in run.output
    written = json.loads(CliRunner().invoke(app, ["plan", target, "--format", "json"]).output)
    assert (written["version"], written["findings"]) == (1, [])
    assert written["plan"]["recommended"]["micro_batch_size"] == 16
    page = tmp_path / "plan.html"
    run = CliRunner().invoke(app, ["plan", target, "--format", "html", "--output", str(page)])
    assert run.exit_code == 0
    assert "do not accumulate" in page.read_text(encoding="utf-8")
    assert CliRunner().invoke(app, ["plan", target, "--memory", "100"]).exit_code == 1
    run = CliRunner().invoke(app, ["plan", target, "--offload", "cpu"])
    assert "in host memory, none on the device before the close" in run.output
    run = CliRunner().invoke(app, ["plan", target, "--checkpointing"])
    assert "checkpointing=True found no blocks" in str(run.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no MODULE:CALLABLE"),
        (["nowhere.py:make"], "there is no file"),
        (["json:missing"], "no callable"),
        (["json:loads"], "failed: TypeError"),
        (["locale:localeconv"], "must return"),
    ],
)
def test_a_wrong_target_is_one_line(arguments: list[str], message: str) -> None:
    run = CliRunner().invoke(app, ["plan", *arguments])
    assert isinstance(run.exception, UserError)
    assert message in str(run.exception)


@pytest.mark.usefixtures("_steady_clock")
def test_the_plot_shows_both_curves_and_can_be_saved_as_png() -> None:
    model, batch = perceptron()
    found = plan(model, loss_fn, batch)
    drawn = figure(found)
    assert [trace.name for trace in drawn.data] == [
        "samples per second",
        "peak memory",
        f"memory there is ({readable_bytes(found.limit_bytes)})",
    ]
    assert list(drawn.data[1].y) == [row.peak_bytes for row in found.rows]
    assert (drawn.layout.yaxis2.type, drawn.layout.yaxis2.dtick) == ("log", 1)  # there are gigabytes here
    near = figure(plan(model, loss_fn, batch, memory=2 * found.rows[-1].peak_bytes))
    assert (near.layout.yaxis2.type, near.layout.yaxis2.rangemode) == (None, "tozero")
    page = as_html(found)
    assert '"format": "png"' in page
    assert "<script src=" not in page
