"""A layer that runs out of memory when it is told to, and a small network, loss and data around it."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

import gradledger


class Fault(nn.Module):
    """Passes its input through, and runs out of memory at some calls of a direction, or above a size."""

    def __init__(
        self, direction: str = "", call: int = -1, above: int | None = None, more: Iterable[tuple[str, int]] = ()
    ) -> None:
        super().__init__()
        self.faults = {(direction, call), *more}
        self.above = above
        self.calls = {"forward": 0, "backward": 0}
        self.sizes: list[int] = []
        self.inputs: list[weakref.ref[Tensor]] = []
        self.left_alive = 0

    def tell(self, direction: str, size: int) -> None:
        call = self.calls[direction]
        self.calls[direction] += 1
        if (direction, call) in self.faults or (self.above is not None and size > self.above):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")

    def forward(self, values: Tensor) -> Tensor:
        self.left_alive = max(self.left_alive, sum(known() is not None for known in self.inputs))
        self.inputs.append(weakref.ref(values))
        self.sizes.append(len(values))
        self.tell("forward", len(values))
        return _Pass.apply(values, self)


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, fault: Fault) -> Tensor:
        ctx.fault = fault
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.fault.tell("backward", len(gradient))
        return gradient, None


def network(fault: Fault, *, is_stateful: bool = True) -> nn.Module:
    """Runs out of memory in the middle, so that a backward has added half of its gradients by then."""
    torch.manual_seed(3)
    extras = [nn.BatchNorm1d(16), nn.Dropout(0.3)] if is_stateful else []
    return nn.Sequential(nn.Linear(6, 16), *extras, fault, nn.ReLU(), nn.Linear(16, 1))


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def batches(count: int = 3, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 6, generator=generator), torch.randn(size, 1, generator=generator)) for _ in range(count)
    ]


def state_of(model: nn.Module, windows: Iterable[gradledger.Window]) -> Any:
    """All that a run leaves: weights and buffers, the random generator, losses."""
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        torch.get_rng_state(),
        [window.loss for window in windows],
    )


def assert_same(one: Any, other: Any) -> None:
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    assert torch.equal(one[1], other[1])
    assert one[2] == other[2]
