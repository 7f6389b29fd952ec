"""Correct: the window's losses are gathered and go backward together, once."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(128)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
loader = DataLoader(TensorDataset(torch.randn(48, 4), torch.randint(0, 2, (48,))), batch_size=8)
pending = []
for x, y in loader:
    pending.append(nn.functional.cross_entropy(model(x), y))
    if len(pending) == 3:
        total = sum(pending) / len(pending)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        pending.clear()
trained = list(model.parameters())
