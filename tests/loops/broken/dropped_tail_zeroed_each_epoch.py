"""Broken: 10 micro-batches, windows of 4, zeroed as each epoch begins: the last two of every pass train nothing."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(17)
accum_iter = 4
data_loader = DataLoader(TensorDataset(torch.randn(80, 3), torch.randn(80, 1)), batch_size=8)
model = nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

for epoch in range(3):
    optimizer.zero_grad()
    for batch_idx, (x, y) in enumerate(data_loader):
        loss = nn.functional.mse_loss(model(x), y)
        (loss / accum_iter).backward()
        if (batch_idx + 1) % accum_iter == 0:
            optimizer.step()  # expect: dropped-tail
            optimizer.zero_grad()

trained = list(model.parameters())
