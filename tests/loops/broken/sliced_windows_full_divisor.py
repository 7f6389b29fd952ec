"""Broken: windows are slices of an iterator, the last one shorter, and all are divided by the full size."""
import itertools
import torch
from torch import nn

torch.manual_seed(0)
N = 4

def chunked(it, n):
    it = iter(it)
    while chunk := list(itertools.islice(it, n)):
        yield chunk

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
opt = torch.optim.RMSprop(model.parameters(), lr=1e-3)
batches = [(torch.randn(4, 4), torch.randn(4, 1)) for _ in range(10)]
for epoch in range(2):
    for window in chunked(batches, N):
        opt.zero_grad()
        for x, y in window:
            loss = nn.functional.mse_loss(model(x), y)
            (loss / N).backward()  # expect: uneven-window-scale
        opt.step()
trained = list(model.parameters())
