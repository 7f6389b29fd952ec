"""Memory: running out of it under a real limit; sizes measured and remembered."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradledger
from engine.injected_faults import Fault, batches, loss_fn, network
from gradledger.engine.batches.splitting import read_samples
from gradledger.engine.memory import remembering, sizing
from gradledger.engine.memory.measuring import Bench, Cost, MemoryTracker, optimizer_bytes
from gradledger.engine.memory.sizing import BySamples, LearnedSize, MemoryModel
from gradledger.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_lowered_size_grows_back_after_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "_FIRST_PATIENCE", 2)
    size = LearnedSize(8)
    size.lower(2)
    seen = []
    for _ in range(12):
        seen.append(size.begin())
        if seen[-1] > 4:  # the larger one fails again
            size.lower(4)
        size.succeed()
    assert seen == [2, 2, 4, 4, 8, 4, 4, 4, 8, 4, 4, 4]


LIMITED = """
import json, resource, sys
import torch
from torch import nn
import gradledger
from gradledger.engine.memory.limits import DoesNotFitError

N, WIDTH = 4096, 3000
def make():
    torch.manual_seed(0)
    layers = nn.Linear(8, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, WIDTH), nn.Tanh()
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 1)).double()
    return model, torch.optim.Adam(model.parameters(), lr=1e-3)
x, y = torch.randn(N, 8).double(), torch.randn(N, 1).double()
def loss_fn(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()
def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])
def whole():
    model, optimizer = make()
    for _ in range(2):
        loss = loss_fn(model, (x, y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weights(model)
def ours(**options):
    model, optimizer = make()
    accumulator = gradledger.Accumulator(model, optimizer)
    sizes = [accumulator.update((x, y), loss_fn, **options).num_micro_batches for _ in range(2)]
    return weights(model), sizes

reference = whole()
ours(cache=False)  # everything is imported and warm before the limit
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 150 * 2**20,) * 2)
result = {}
try:
    whole()
except RuntimeError as error:
    result["whole"] = str(error)
for name, options in {"auto": {}, "given": {"micro_batch_size": N}}.items():
    found, sizes = ours(**options)
    result[name] = {"gap": float((found - reference).abs().max()), "num_micro_batches": sizes}
model, optimizer = make()
huge = lambda model, batch: model(batch[0].repeat(100000, 1)).mean()
try:
    gradledger.Accumulator(model, optimizer).update((x[:4], y[:4]), huge)
except DoesNotFitError as error:
    result["one"] = str(error)
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cache = tmp_path_factory.mktemp("cache")
    environment = {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", LIMITED], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_under_a_memory_limit_the_whole_batch_dies_and_ours_completes(limited: dict[str, Any]) -> None:
    assert "can't allocate memory" in limited["whole"]
    for name in ("auto", "given"):
        assert limited[name]["gap"] < 1e-12
        assert min(limited[name]["num_micro_batches"]) > 1


def test_under_a_memory_limit_one_sample_too_large_is_explained(limited: dict[str, Any]) -> None:
    assert "micro-batch of 1 sample" in limited["one"]
    assert "activation checkpointing" in limited["one"]


def test_a_memory_model_is_a_line_through_the_largest_sizes() -> None:
    costs = [Cost(1, 100, 1.0), Cost(4, 130, 1.0), Cost(2, 101, 1.0)]
    model = MemoryModel.fit(costs)
    assert (model.peak_bytes(4), model.peak_bytes(8), model.largest_fitting(190)) == (130, 188, 8)
    assert model.largest_fitting(0) == 0


@pytest.mark.parametrize(
    ("make", "copies"),
    [
        (lambda p: torch.optim.Adam(p), 2),
        (lambda p: torch.optim.SGD(p, lr=0.1), 0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 1),
        (lambda p: torch.optim.LBFGS(p), 2),
    ],
)
def test_the_optimizers_state_is_known_before_its_first_step(make: Any, copies: int) -> None:
    model = nn.Linear(50, 50)
    optimizer = make(list(model.parameters()))
    assert optimizer_bytes(optimizer)[0] == pytest.approx(copies * 2550 * 4, abs=64)
    assert not optimizer.state
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    if copies == 1:
        model(torch.zeros(1, 50)).sum().backward()
        optimizer.step()
        assert optimizer_bytes(optimizer)[0] == 0  # it is there already


def test_what_is_alive_at_once_counts_and_views_do_not() -> None:
    start = torch.zeros(1000)
    with MemoryTracker([start]) as tracker:
        first = start + 1
        second = first + 1
        assert tracker.peak_bytes == 12_000
        del first
        third = second + 1
        third[:10].mul_(2)
        assert tracker.peak_bytes == 12_000
        torch.zeros(250, dtype=torch.float64)
    assert tracker.peak_bytes == 14_000
    assert tracker.current_bytes == 12_000


@pytest.mark.filterwarnings("ignore:.*Profiler clears events:UserWarning")  # torch before 2.13
def test_the_tracked_peak_is_the_allocators() -> None:
    from torch.profiler import ProfilerActivity, profile

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(784, 10)
    )
    images = torch.randn(16, 3, 16, 16)
    with MemoryTracker() as tracker:
        model(images).square().mean().backward()
    model.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        model(images).square().mean().backward()
    current = peak = 0
    events = profiled.profiler.kineto_results.events()
    for _, num_bytes in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        current += num_bytes
        peak = max(peak, current)
    assert tracker.peak_bytes == pytest.approx(peak, rel=0.02)


def measured_with(limit: int, monkeypatch: pytest.MonkeyPatch) -> tuple[gradledger.Accumulator, gradledger.Window]:
    from gradledger.engine.memory import fitting

    monkeypatch.setattr(fitting, "available_bytes", lambda device: limit)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 512), nn.BatchNorm1d(512), nn.Dropout(), nn.ReLU(), nn.Linear(512, 1))
    accumulator = gradledger.Accumulator(model, torch.optim.Adam(model.parameters()))
    return accumulator, accumulator.update((torch.randn(256, 64), torch.randn(256, 1)), loss_fn)


def test_auto_takes_the_size_that_fits_and_keeps_the_effective_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    # Larger is faster, so that memory alone decides.
    monkeypatch.setattr(Bench, "_measured_seconds", lambda _, batch: 1.0 + 0.01 * len(batch[0]))
    _, roomy = measured_with(10**9, monkeypatch)
    _, tight = measured_with(900_000, monkeypatch)
    assert roomy.weight == tight.weight == 256
    assert roomy.num_micro_batches == 1
    assert tight.num_micro_batches > 2
    # 512 wide, three float32 activations a sample, beside Adam's state of 2 × 140 kB
    assert 256 / tight.num_micro_batches <= (0.9 * 900_000 - 2 * 140_000) / (3 * 512 * 4)


def test_measuring_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first update of auto is that of the same size given: no random number, buffer or gradient was used up."""
    automatic, window = measured_with(10**9, monkeypatch)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 512), nn.BatchNorm1d(512), nn.Dropout(), nn.ReLU(), nn.Linear(512, 1))
    accumulator = gradledger.Accumulator(model, torch.optim.Adam(model.parameters()))
    size = -(-256 // window.num_micro_batches)
    accumulator.update((torch.randn(256, 64), torch.randn(256, 1)), loss_fn, micro_batch_size=size)
    for one, other in zip(model.state_dict().values(), automatic.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_size_is_remembered_across_runs_and_not_with_cache_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(sizing, "_measure", lambda *a, _measure=sizing._measure: (calls.append(a[-1]), _measure(*a))[1])
    measured_with(10**9, monkeypatch)
    assert calls
    first_run = len(calls)
    measured_with(10**9, monkeypatch)
    assert len(calls) == first_run
    files = list((tmp_path / "gradledger" / "micro-batch-sizes").iterdir())
    assert len(files) == 1
    _, tight = measured_with(1_600_000, monkeypatch)  # less memory now: the model of the cache says what fits
    assert len(calls) == first_run
    assert tight.num_micro_batches > 1
    files[0].write_text("{ broken")
    measured_with(10**9, monkeypatch)
    assert len(calls) > first_run
    model = network(Fault())
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))
    accumulator.update(batches(1)[0], loss_fn, cache=False)
    assert len(list(files[0].parent.iterdir())) == 1


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How much there is, in a machine in which larger micro-batches are always faster."""
    from gradledger.engine.memory import fitting

    there = {"bytes": 900_000}
    monkeypatch.setattr(fitting, "available_bytes", lambda device: there["bytes"])
    monkeypatch.setattr(Bench, "_measured_seconds", lambda _, batch: 1.0 + 0.01 * len(batch[0]))
    return there


def wide_accumulator() -> gradledger.Accumulator:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 1))
    return gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.01))


def test_a_size_grows_when_memory_is_free_again(memory: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "_FIRST_PATIENCE", 3)
    accumulator, batch = wide_accumulator(), (torch.randn(256, 64), torch.randn(256, 1))
    nums = [accumulator.update(batch, loss_fn).num_micro_batches for _ in range(4)]
    memory["bytes"] = 1_100_000  # not worth measuring again
    nums += [accumulator.update(batch, loss_fn).num_micro_batches for _ in range(4)]
    memory["bytes"] = 10**9
    nums += [accumulator.update(batch, loss_fn).num_micro_batches for _ in range(3)]
    assert nums[0] > 2
    assert nums == [nums[0]] * 9 + [1, 1]


def test_a_size_from_a_run_with_little_memory_is_not_kept_for_ever(memory: dict[str, int]) -> None:
    batch = torch.randn(256, 64), torch.randn(256, 1)

    def first_update() -> int:
        return wide_accumulator().update(batch, loss_fn).num_micro_batches

    tight = first_update()
    memory["bytes"] = 10**9
    assert first_update() == 1 < tight
    memory["bytes"] = 900_000
    assert first_update() == pytest.approx(tight, abs=1)  # from the memory model
    memory["bytes"] = 10**9
    assert first_update() == 1


def test_a_size_that_memory_ran_out_with_is_tried_again_with_more_only(memory: dict[str, int]) -> None:
    batch = batches(1)[0]

    def accumulator_of(fault: Fault) -> gradledger.Accumulator:
        model = network(fault, is_stateful=False)
        return gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))

    def last_size() -> int:
        fault = Fault()
        accumulator_of(fault).update(batch, loss_fn)
        return fault.sizes[-1]

    assert last_size() == 32
    accumulator = accumulator_of(Fault())
    accumulator._sizes.learned(read_samples(batch), "auto", loss_fn, BySamples(), cache=True).lower(8)
    assert last_size() == 8
    memory["bytes"] = 10**9
    assert last_size() == 32


def test_nothing_is_remembered_of_a_measuring_in_which_nothing_fitted(memory: dict[str, int]) -> None:
    batch, fault = batches(1)[0], Fault("forward", 0)
    model = network(fault, is_stateful=False)
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert accumulator.update(batch, loss_fn).num_micro_batches == 32
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert accumulator.update(batch, loss_fn).num_micro_batches == 1


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert measured_with(10**9, monkeypatch)[1].weight == 256
    assert remembering.recall("nothing") is None


def test_a_closure_optimizer_measures_too() -> None:
    model = nn.Linear(6, 1)
    accumulator = gradledger.Accumulator(model, torch.optim.LBFGS(model.parameters(), max_iter=3))
    first = accumulator.update(batches(1)[0], loss_fn)
    assert accumulator.update(batches(1)[0], loss_fn).loss < first.loss


def test_a_wrong_size_is_refused_before_anything_runs() -> None:
    model = nn.Linear(6, 1)
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(UserError, match="'auto'"):
        accumulator.update(batches(1)[0], loss_fn, micro_batch_size="automatic")  # type: ignore[arg-type]
