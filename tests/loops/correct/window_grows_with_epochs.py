"""Correct: a schedule of window sizes by epoch, {0: 1, 1: 2, 2: 4}; each divides the epoch's 8 micro-batches."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(113)
scheduling = {0: 1, 1: 2, 2: 4}
loader = DataLoader(TensorDataset(torch.randn(32, 5), torch.randn(32, 1)), batch_size=4)
model = nn.Linear(5, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.05)
for epoch in range(3):
    current = scheduling[epoch]
    for i, (x, y) in enumerate(loader):
        loss = nn.functional.mse_loss(model(x), y)
        if current > 1:
            loss = loss / current
        loss.backward()
        if (i + 1) % current == 0:
            opt.step()
            opt.zero_grad()
trained = list(model.parameters())
