"""Compiled models: full windows, tails and learned sizes cause no compilation beyond the first ones."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradledger


class Counting:
    """A compiler back end that counts the graphs it is given and runs them as they are."""

    def __init__(self) -> None:
        self.num_graphs = 0

    def __call__(self, graph: Any, _example: Any) -> Any:
        self.num_graphs += 1
        return graph.forward


@pytest.fixture
def counting() -> Any:
    torch._dynamo.reset()
    yield Counting()
    torch._dynamo.reset()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))


def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def train(model: nn.Module, trained: nn.Module, sizes: list[int], num_epochs: int) -> Tensor:
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(trained.parameters(), lr=0.1))
    generator = torch.Generator().manual_seed(1)
    loader = [torch.randn(size, 6, generator=generator) for size in sizes]
    for _ in range(num_epochs):
        for window in accumulator.windows(loader, steps=3):
            with window:
                for batch in window:
                    window.backward(loss_fn(model, batch))
    return torch.cat([parameter.detach().flatten() for parameter in trained.parameters()])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_windows_and_tails_are_not_compiled_again(counting: Counting) -> None:
    plain = network()
    expected = train(plain, plain, [8, 8, 8, 8, 5], num_epochs=3)
    inner = network()
    found = train(torch.compile(inner, backend=counting), inner, [8, 8, 8, 8, 5], num_epochs=1)
    after_one_epoch = counting.num_graphs
    assert 1 <= after_one_epoch <= 2  # one, and one with a free size for the short micro-batch
    inner = network()
    compiled = torch.compile(inner, backend=counting)
    train(compiled, inner, [8, 8, 8, 8, 5], num_epochs=1)
    before = counting.num_graphs
    inner.load_state_dict(network().state_dict())
    found = train(compiled, inner, [8, 8, 8, 8, 5, 7, 3], num_epochs=2)
    assert counting.num_graphs == before  # other windows, other tails: nothing new
    inner.load_state_dict(network().state_dict())
    found = train(compiled, inner, [8, 8, 8, 8, 5], num_epochs=3)
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_samples_of_unlike_length_in_buckets_are_compiled_few_times(counting: Counting) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 1)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embedding(ids)).square().mean()

    inner = Reader()
    compiled = torch.compile(inner, backend=counting)
    accumulator = gradledger.Accumulator(compiled, torch.optim.SGD(inner.parameters(), lr=0.1))
    seen = []
    for seed in range(4):
        lengths = torch.randint(1, 40, (32,), generator=torch.Generator().manual_seed(seed))
        ids = torch.ones(32, 40, dtype=torch.long) * (torch.arange(40) < lengths[:, None])
        accumulator.update(ids, lambda m, b: m(b), lengths=lengths, token_budget=160, length_bucket=8)
        seen.append(counting.num_graphs)
    assert seen[-1] == seen[0] <= 3
