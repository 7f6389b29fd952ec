"""Peak memory on a CPU: the tensors alive at once, counted by hand."""

import torch
from torch import nn

from gradledger.train.memory import PeakMemory


def test_a_linear_layer_by_hand():
    """Weights, their gradient, momentum and the output with its gradient; nothing else is alive at once."""
    model = nn.Linear(500, 100, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)
    memory = PeakMemory(model, torch.device("cpu"))
    inputs = torch.randn(8, 500)
    for _ in range(2):
        with memory.window():
            model(inputs).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    weights = 4 * 500 * 100
    assert 3 * weights <= memory.peak_bytes() <= 3 * weights + 4 * (8 * 500 + 3 * 8 * 100)


def test_later_windows_are_not_measured():
    memory = PeakMemory(nn.Linear(2, 2), torch.device("cpu"))
    for size in (1000, 1000, 100_000):
        with memory.window():
            torch.zeros(size)
    assert memory.peak_bytes() == 4 * 6 + 4000
    assert PeakMemory(nn.Linear(2, 2), torch.device("cpu")).peak_bytes() is None
