"""Broken (known limit): batch normalisation sees 4 samples at a time, not the window's 16 (pytorch#46516)."""
import torch
from torch import nn

torch.manual_seed(83)
model = nn.Sequential(nn.Linear(5, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 2))
opt = torch.optim.SGD(model.parameters(), lr=0.1)
X, Y = torch.randn(64, 5), torch.randint(0, 2, (64,))
for i, (x, y) in enumerate(zip(X.split(4), Y.split(4))):
    loss = nn.functional.cross_entropy(model(x), y) / 4
    loss.backward()  # expect: batch-norm-in-window
    if (i + 1) % 4 == 0:
        opt.step()
        opt.zero_grad()
trained = list(model.parameters())
