"""On a GPU: configured runs that are stopped and gone on with, compiled windows, and the proof on a user's model."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._inductor.config
from torch import Tensor, nn

import gradledger
from train.stopping import Stopper, came_to, start

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SETTINGS = (
    "device=cuda", "model=train.stopping:Net", "micro_batch_size=4", "steps=3", "epochs=2", "optimizer=adamw",
    "scheduler=cosine", "clip_norm=0.5",
)  # fmt: skip


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_run_that_was_stopped_anywhere_goes_on_bitwise(tmp_path: Any, precision: str) -> None:
    settings = (*SETTINGS, f"precision={precision}")
    whole, _ = start(tmp_path / "whole", settings)
    stopper = Stopper(whole)
    whole.train()
    expected = came_to(whole, tmp_path / "whole")
    for number, event in enumerate(random.Random(precision).sample(range(1, stopper.num_events), 4)):
        run, _ = start(tmp_path / str(number), settings)
        Stopper(run, event)
        assert run.train().exit == "terminated"
        again, state = start(tmp_path / str(number), settings, "auto")
        assert again.train(state).exit == "finished"
        assert came_to(again, tmp_path / str(number)) == expected, event


@pytest.fixture
def _own_compiler() -> Iterator[None]:
    """The compiler compiles in this process, and not in others that outlive the test."""
    with torch._inductor.config.patch(compile_threads=1):
        yield


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
@pytest.mark.usefixtures("_own_compiler")
def test_compiled_windows_are_compiled_once_for_full_micro_batches_and_tails() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4)).cuda()
    accumulator = gradledger.Accumulator(
        model, torch.optim.AdamW(model.parameters()), precision="bf16-mixed", device="cuda", compile=True, clip_norm=1.0
    )
    for num_samples in (32, 32, 27, 32, 21):
        batch = torch.randn(num_samples, 16), torch.randint(4, (num_samples,))
        accumulator.update(batch, classified, micro_batch_size=8)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    torch._dynamo.reset()


def classified(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_verify_proves_a_model_on_the_device() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).cuda()
    batch = torch.randn(30, 8, device="cuda"), torch.randint(4, (30,), device="cuda")
    assert gradledger.verify(model, classified, batch, micro_batch_size=7).is_exact


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2"])
def test_a_rank_under_nccl_trains_as_a_process_alone(wrapper: str, tmp_path: Any) -> None:
    import torch.distributed as dist

    def trained(wrap: Any) -> list[Tensor]:
        torch.manual_seed(0)
        model = wrap(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).cuda())
        accumulator = gradledger.Accumulator(
            model, torch.optim.SGD(model.parameters(), lr=0.1), device="cuda", clip_norm=0.5
        )
        generator = torch.Generator().manual_seed(3)
        data = [
            (torch.randn(n, 8, generator=generator), torch.randint(4, (n,), generator=generator)) for n in (4, 4, 3)
        ]
        for window in accumulator.windows(data * 2, steps=2):
            with window:
                for batch in window:
                    window.backward(classified(model, batch))
        weights = (each.detach() for each in model.parameters())
        return [each.full_tensor() if hasattr(each, "full_tensor") else each for each in weights]

    expected = trained(lambda model: model)
    dist.init_process_group("cpu:gloo,cuda:nccl", rank=0, world_size=1, init_method=f"file://{tmp_path}/store")
    try:
        from torch.distributed.fsdp import fully_shard
        from torch.nn.parallel import DistributedDataParallel

        found = trained(fully_shard if wrapper == "fsdp2" else DistributedDataParallel)
    finally:
        dist.destroy_process_group()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
