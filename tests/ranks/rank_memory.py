"""Updates over ranks of which one runs out of memory, compared with plain training on the whole batches of all."""

from __future__ import annotations

from typing import Any

import torch
from rank_cases import replicate, whole
from torch import Tensor, nn

import gradledger
from engine.injected_faults import Fault
from engine.oracle import relative_distance, train_on_whole_batches


class Network(nn.Module):
    """Runs out of memory in the middle; may count its forwards in a buffer, so that a window must restart."""

    def __init__(self, fault: Fault, *, is_stateful: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 1)
        self.fault = fault
        if is_stateful:
            self.register_buffer("num_forwards", torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        if hasattr(self, "num_forwards"):
            self.num_forwards += 1
        return self.last(torch.tanh(self.fault(self.first(inputs))))


def weighted_mean(model: nn.Module, inputs: Tensor, weights: Tensor) -> Tensor:
    return (model(inputs)[:, 0].square() * weights).sum() / weights.sum()


def weigh(batch: tuple[Tensor, Tensor]) -> float:
    return float(batch[1].sum())


def parts(num_ranks: int, num_updates: int = 3) -> list[list[tuple[Tensor, Tensor]]]:
    """Each rank's samples of each update, 12 or fewer, and what they count."""
    generator = torch.Generator().manual_seed(1)
    return [
        [
            (
                torch.randn(12 - rank, 6, generator=generator, dtype=torch.float64),
                torch.randint(1, 5, (12 - rank,), generator=generator).double(),
            )
            for _ in range(num_updates)
        ]
        for rank in range(num_ranks)
    ]


class OutOfMemory:
    """Rank 1 runs out of memory at one call of a direction, in updates of micro-batches of four samples."""

    def __init__(self, direction: str, call: int, *, is_stateful: bool = False, size: Any = 4, **options: Any) -> None:
        self.direction = direction
        self.call = call
        self.is_stateful = is_stateful
        self.size = size
        self.options = options

    def __call__(self, rank: int, num_ranks: int) -> dict[str, Any]:
        fault = Fault(self.direction, self.call if rank == 1 else -1)
        fault.calls["loss"] = 0

        def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            loss = weighted_mean(model, *batch)
            fault.tell("loss", len(batch[0]))  # after the forward, which prepared the reduction
            return loss

        torch.manual_seed(2)
        plain = Network(Fault(), is_stateful=self.is_stateful).double()
        model = Network(fault, is_stateful=self.is_stateful).double()
        model.load_state_dict(plain.state_dict())
        wrapped = replicate(model)
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
        accumulator = gradledger.Accumulator(wrapped, optimizer, weight=weigh, **self.options)
        of_ranks = parts(num_ranks)
        losses, nums = [], []
        for part in of_ranks[rank]:
            update = accumulator.update(part, loss_fn, micro_batch_size=self.size, cache=False)
            losses.append(update.loss)
            nums.append(update.num_micro_batches)
        batches = [[part[at] for part in of_ranks] for at in range(3)]
        oracle = train_on_whole_batches(plain, torch.optim.SGD(plain.parameters(), lr=0.1), batches, weighted_mean)
        return {
            "distance": max(
                relative_distance(whole(wrapped), plain),
                *(abs(loss - expected) for loss, (expected, _) in zip(losses, oracle, strict=True)),
            ),
            "nums": nums, "happened": fault.calls[self.direction or "forward"] > self.call,
        }  # fmt: skip


class FittingSize:
    """The size for a loop of one's own, measured on parts of unlike size."""

    def __call__(self, rank: int, num_ranks: int) -> int:
        torch.manual_seed(2)
        wrapped = replicate(Network(Fault(), is_stateful=False).double())
        accumulator = gradledger.Accumulator(wrapped, torch.optim.SGD(wrapped.parameters(), lr=0.1), weight=weigh)
        inputs, weights = parts(num_ranks)[rank][0]
        few = slice(0, 2 + rank)
        return accumulator.fitting_size((inputs[few], weights[few]), lambda m, b: weighted_mean(m, *b), cache=False)
