"""Broken: a break after a fixed number of micro-batches ends the epoch early; what was held is added to the next epoch's first window."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(145)
limit_train_batches, accum = 7, 3
loader = DataLoader(TensorDataset(torch.randn(80, 4), torch.randn(80, 1)), batch_size=8)
model = nn.Linear(4, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.02)
for epoch in range(3):
    for i, (x, y) in enumerate(loader):
        if i >= limit_train_batches:
            break
        (nn.functional.mse_loss(model(x), y) / accum).backward()
        if (i + 1) % accum == 0:
            opt.step()  # expect: leaked-tail, dropped-tail
            opt.zero_grad()
trained = list(model.parameters())
