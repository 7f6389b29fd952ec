"""Broken (log only): the epoch's loss sums detached, divided losses on the device and divides by all micro-batches at the end."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def train_epoch(model, loader, opt, k):
    total = torch.zeros(())
    for i, (x, y) in enumerate(loader):
        loss = nn.functional.mse_loss(model(x), y)
        loss = loss / k
        loss.backward()
        total += loss.detach()
        if (i + 1) % k == 0:
            opt.step()
            opt.zero_grad()
    return total.item() / len(loader)  # expect[lint]: loss-log-scale


torch.manual_seed(514)
m = nn.Linear(3, 1)
losses = [train_epoch(m, DataLoader(TensorDataset(torch.randn(24, 3), torch.randn(24, 1)), batch_size=3), torch.optim.SGD(m.parameters(), lr=0.1), 4)]
trained = list(m.parameters())
