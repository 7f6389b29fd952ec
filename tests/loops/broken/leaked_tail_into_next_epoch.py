"""Broken: 6 micro-batches, windows of 4 by epoch index: two leak into the next epoch's first window, the last two are lost."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(20)
grad_acc = 4
loader = DataLoader(TensorDataset(torch.randn(48, 4), torch.randint(0, 5, (48,))), batch_size=8)
model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 5))
optim = torch.optim.SGD(model.parameters(), lr=0.1)
optim.zero_grad()

for epoch in range(3):
    for i, (x, y) in enumerate(loader):
        loss = nn.functional.cross_entropy(model(x), y) / grad_acc
        loss.backward()
        if (i + 1) % grad_acc == 0:
            optim.step()  # expect: leaked-tail, dropped-tail
            optim.zero_grad()

trained = list(model.parameters())
