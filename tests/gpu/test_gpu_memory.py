"""On a GPU: memory that really runs out, sizes that are chosen to fit it, and what a plan says of it."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradledger

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

NUM_SAMPLES, WIDTH, HIDDEN = 4096, 256, 4096
LIMIT_BYTES = 300 * 2**20
"""Of what the process may take beyond the model: enough for about a third of the samples at once."""


def make() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    layers = nn.Linear(WIDTH, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Dropout(0.1), nn.Linear(HIDDEN, 10)
    model = nn.Sequential(*layers).cuda()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def make_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(NUM_SAMPLES, WIDTH, generator=generator), torch.randint(10, (NUM_SAMPLES,), generator=generator)


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture
def _little_memory() -> Iterator[None]:
    """The process may take a few hundred megabytes; libraries have started before."""
    model, _ = make()
    loss_fn(model, tuple(part[:8].cuda() for part in make_batch())).backward()
    del model
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + LIMIT_BYTES) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def trained(size: int, num_updates: int = 3) -> tuple[dict[str, Tensor], gradledger.Accumulator, list[int]]:
    model, optimizer = make()
    accumulator = gradledger.Accumulator(model, optimizer, device="cuda")
    torch.manual_seed(7)
    windows = [accumulator.update(make_batch(), loss_fn, micro_batch_size=size) for _ in range(num_updates)]
    return model.state_dict(), accumulator, [window.num_micro_batches for window in windows]


@pytest.mark.usefixtures("_little_memory")
def test_a_whole_batch_runs_out_of_memory_and_the_update_is_that_of_a_smaller_size() -> None:
    model, _ = make()
    with pytest.raises(torch.OutOfMemoryError):
        loss_fn(model, tuple(part.cuda() for part in make_batch())).backward()
    del model
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    found, accumulator, counts = trained(NUM_SAMPLES)
    assert counts[0] > 1
    assert accumulator.num_updates == 3
    expected, _, _ = trained(-(-NUM_SAMPLES // counts[0]))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    del found, expected, accumulator
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() - before < 2**20


@pytest.mark.usefixtures("_little_memory")
def test_a_measured_size_fits_at_once() -> None:
    model, optimizer = make()
    accumulator = gradledger.Accumulator(model, optimizer, device="cuda")
    for _ in range(3):
        assert accumulator.update(make_batch(), loss_fn, cache=False).num_micro_batches > 1
    before = torch.cuda.memory_stats()["num_ooms"]
    accumulator.update(make_batch(), loss_fn, cache=False)
    assert torch.cuda.memory_stats()["num_ooms"] == before


@pytest.mark.parametrize("optimizer_type", [torch.optim.SGD, torch.optim.AdamW])
def test_a_plan_tells_the_peak_of_a_real_update(optimizer_type: Any) -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    model, _ = make()
    batch = make_batch()
    optimizer = optimizer_type(model.parameters(), lr=1e-3)
    found = gradledger.plan(model, loss_fn, batch, optimizer=optimizer)
    for row in found.rows[5::2]:
        accumulator = gradledger.Accumulator(model, optimizer, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            accumulator.update(batch, loss_fn, micro_batch_size=row.micro_batch_size)
        real = torch.cuda.max_memory_allocated() - before
        assert row.is_measured
        assert row.peak_bytes == pytest.approx(real, rel=0.05), row
