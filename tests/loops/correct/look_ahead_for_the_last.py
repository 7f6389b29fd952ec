"""Correct: an iterable of unknown length, read one ahead to know the last; the tail's gradients are rescaled to their own count."""
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset


class Stream(IterableDataset):
    def __iter__(self):
        g = torch.Generator().manual_seed(5)
        for _ in range(20):
            x = torch.randn(3, generator=g)
            yield x, x.abs().sum()


def with_last(iterable):
    it = iter(iterable)
    current = next(it)
    for following in it:
        yield current, False
        current = following
    yield current, True


torch.manual_seed(134)
model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1), nn.Flatten(0))
opt = torch.optim.SGD(model.parameters(), lr=0.02)
accumulate = 3
for epoch in range(2):
    held = 0
    for (x, y), is_last in with_last(DataLoader(Stream(), batch_size=4)):
        loss = nn.functional.mse_loss(model(x), y) / accumulate
        loss.backward()
        held += 1
        if held == accumulate or is_last:
            if held < accumulate:
                for p in model.parameters():
                    p.grad *= accumulate / held
            opt.step()
            opt.zero_grad()
            held = 0
trained = list(model.parameters())
