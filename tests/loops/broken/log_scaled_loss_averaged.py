"""Broken (log only): the running loss sums losses that are already divided, then averages over micro-batches: 4 times too small."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(53)
accum = 4
loader = DataLoader(TensorDataset(torch.randn(64, 6), torch.randint(0, 2, (64,))), batch_size=8)
model = nn.Linear(6, 2)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
epoch_losses = []

for epoch in range(2):
    train_loss = 0.0
    for i, (x, y) in enumerate(loader):
        loss = nn.functional.cross_entropy(model(x), y) / accum
        loss.backward()
        train_loss += loss.item()  # expect[lint]: loss-log-scale
        if (i + 1) % accum == 0:
            optimizer.step()
            optimizer.zero_grad()
    epoch_losses.append(train_loss / len(loader))

trained = list(model.parameters())
