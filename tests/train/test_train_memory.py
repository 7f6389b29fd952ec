"""Peak memory on a CPU: the tensors alive at once, counted by hand."""

import torch
from torch import nn

from gradledger.train.memory import LiveBytes, PeakMemory


def test_what_is_alive_at_once_counts_and_views_do_not():
    start = torch.zeros(1000)
    with LiveBytes([start]) as live:
        first = start + 1
        second = first + 1
        assert live.peak == 12_000
        del first
        third = second + 1
        third[:10].mul_(2)
        assert live.peak == 12_000
        torch.zeros(250, dtype=torch.float64)
    assert live.peak == 14_000


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
