"""Broken: the remainder is flushed after the loop, which is kind, with the full divisor, which is not."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def train(model, loader, opt, accumulate, epochs):
    for _ in range(epochs):
        pending = 0
        for x, y in loader:
            loss = nn.functional.mse_loss(model(x), y)
            (loss / accumulate).backward()  # expect: uneven-window-scale
            pending += 1
            if pending == accumulate:
                opt.step()
                opt.zero_grad()
                pending = 0
        if pending > 0:
            opt.step()
            opt.zero_grad()


torch.manual_seed(313)
m = nn.Linear(3, 1)
train(m, DataLoader(TensorDataset(torch.randn(44, 3), torch.randn(44, 1)), batch_size=4), torch.optim.SGD(m.parameters(), lr=0.1), 3, 2)
trained = list(m.parameters())
