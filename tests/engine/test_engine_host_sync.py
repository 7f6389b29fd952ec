"""Host syncs: between the opening of a window and its close nobody waits for the device.

Everything runs on the meta device, which computes no values: like a GPU it is no CPU, and every attempt to read a value
passes through the dispatcher, where it is written down and answered with ones. On a GPU torch itself is asked.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gradledger

READING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default}


class Fetches(TorchDispatchMode):
    """Counts what is read from a device."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_there = isinstance(args[0] if args else None, Tensor) and not args[0].is_cpu
        goes = func is torch.ops.aten._to_copy.default and torch.device(kwargs.get("device", "meta")).type == "cpu"
        if is_there and (func in READING or goes):
            self.num += 1
            if goes:
                return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
            return 1 if func is torch.ops.aten._local_scalar_dense.default else True
        return func(*args, **kwargs)


def make(**options: Any) -> gradledger.Accumulator:
    with torch.device("meta"):
        blocks = (nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1)) for _ in range(2))
        model = nn.Sequential(*blocks, nn.Linear(8, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    return gradledger.Accumulator(model, optimizer, **options)


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], ignore_index=-100)


def plain(accumulator: gradledger.Accumulator, window: gradledger.Window) -> None:
    for batch in window:
        window.backward(loss_of(accumulator.model, batch))


def late(accumulator: gradledger.Accumulator, window: gradledger.Window) -> None:
    for batch in window:
        window.backward(loss_of(accumulator.model, batch), weight=(batch[1] != -100).sum())


def terms(accumulator: gradledger.Accumulator, window: gradledger.Window) -> None:
    for position, batch in enumerate(window):
        outputs = accumulator.model(batch[0])
        window.backward(nn.functional.cross_entropy(outputs, batch[1]), per="samples", retain_graph=True)
        window.backward(outputs.abs().mean(), per="micro-batch")
        if position == 0:
            window.backward(sum(p.square().sum() for p in accumulator.model.parameters()), per="window")


def waiting(accumulator: gradledger.Accumulator, window: gradledger.Window) -> None:
    for batch in window:
        loss = loss_of(accumulator.model, batch)
        window.backward(loss)
        if loss > 3:
            loss.item()


def fetched(accumulator: gradledger.Accumulator, body: Any, data_device: str = "meta") -> tuple[int, int]:
    """What one window reads from the device before its close, and at it."""
    loader = [
        (torch.zeros(size, 8, device=data_device), torch.zeros(size, dtype=torch.long, device=data_device))
        for size in (4, 4, 2, 3)
    ]
    window = next(accumulator.windows(loader, steps=4))
    with Fetches() as fetches:
        with window:
            body(accumulator, window)
            before = fetches.num
        assert not window.voided
        return before, fetches.num - before


CASES: list[tuple[Any, dict[str, Any], int]] = [
    (plain, {}, 1),  # the norm, to see whether it is finite
    (plain, {"clip_norm": 1.0}, 1),
    (plain, {"checkpointing": True}, 1),
    (plain, {"batch_norm": "pooled"}, 1),
    (plain, {"non_finite": "skip-update"}, 1),
    (plain, {"non_finite": "drop-micro-batch"}, 2),  # and which micro-batches are
    (late, {}, 2),  # and the weights
    (late, {"non_finite": "drop-micro-batch"}, 3),
    (terms, {"weight": {"samples": lambda batch: len(batch[1])}}, 1),
]


@pytest.mark.parametrize(("body", "options", "at_close"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_a_window_waits_for_the_device_at_its_close_only(body: Any, options: dict[str, Any], at_close: int) -> None:
    assert fetched(make(**options), body) == (0, at_close)


def len_of_labels(batch: tuple[Tensor, Tensor]) -> int:
    return len(batch[1])


def test_micro_batches_that_are_moved_wait_for_nothing() -> None:
    accumulator = make(device="meta", weight=gradledger.tokens())  # counted where they come from
    assert fetched(accumulator, plain, data_device="cpu") == (0, 1)


@pytest.mark.parametrize("weight", [gradledger.tokens(), gradledger.class_weights(torch.ones(4)), len_of_labels])
def test_weights_that_are_counted_on_the_device_are_fetched_together(weight: Any) -> None:
    assert fetched(make(weight=weight), plain) == (0 if weight is len_of_labels else 1, 1)


def test_an_update_waits_at_its_close_only() -> None:
    accumulator = make()
    batch = torch.zeros(16, 8, device="meta"), torch.zeros(16, dtype=torch.long, device="meta")
    with Fetches() as fetches:
        accumulator.update(batch, loss_of, micro_batch_size=4)
    assert fetches.num == 1


def test_a_body_that_waits_is_seen() -> None:
    assert fetched(make(), waiting) == (8, 1)


@pytest.fixture
def _errors_on_sync() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("_errors_on_sync")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize(("body", "options", "at_close"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_on_a_gpu_torch_sees_no_sync_in_a_window(body: Any, options: dict[str, Any], at_close: int) -> None:
    torch.manual_seed(0)
    blocks = (nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1)) for _ in range(2))
    model = nn.Sequential(*blocks, nn.Linear(8, 4)).cuda()
    accumulator = gradledger.Accumulator(model, torch.optim.Adam(model.parameters()), device="cuda", **options)
    loader = [(torch.randn(size, 8).pin_memory(), torch.zeros(size, dtype=torch.long).pin_memory()) for size in (4, 4)]
    for window in accumulator.windows(loader * 4, steps=4):
        with window:
            torch.cuda.set_sync_debug_mode("error")
            body(accumulator, window)
            torch.cuda.set_sync_debug_mode("default")
    with (
        pytest.raises(RuntimeError, match="synchronizing CUDA operation"),
        next(accumulator.windows(loader, steps=2)) as window,
    ):
        torch.cuda.set_sync_debug_mode("error")
        waiting(accumulator, window)
