"""Correct: IterableDataset of unknown length; a window is closed by the stream's end with its own size."""
import torch
from torch.utils.data import DataLoader, IterableDataset


class Stream(IterableDataset):
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        g = torch.Generator().manual_seed(self.n)
        for _ in range(self.n):
            x = torch.randn(3, generator=g)
            yield x, x.sum()


torch.manual_seed(0)
net = torch.nn.Linear(3, 1)
opt = torch.optim.SGD(net.parameters(), lr=0.01)


def windows(loader, size):
    buf = []
    for item in loader:
        buf.append(item)
        if len(buf) == size:
            yield buf
            buf = []
    if buf:
        yield buf


for epoch in range(2):
    for window in windows(DataLoader(Stream(44), batch_size=4), 4):
        n = sum(len(y) for _, y in window)
        for x, y in window:
            loss = torch.nn.functional.mse_loss(net(x).squeeze(1), y, reduction="sum") / n
            loss.backward()
        opt.step()
        opt.zero_grad()
trained = list(net.parameters())
