"""Broken: a new head is attached after the optimizer was built."""
import torch
from torch import nn
torch.manual_seed(34)
backbone = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10))
optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-3)
backbone[2] = nn.Linear(8, 3)
for i in range(5):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(backbone(torch.randn(4, 6)), torch.randint(3, (4,)))
    loss.backward()  # expect[audit]: unowned-gradient
    optimizer.step()  # expect[audit]: missing-gradient
trained = list(backbone.parameters())
