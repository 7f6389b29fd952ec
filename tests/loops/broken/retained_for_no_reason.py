"""Broken (memory): retain_graph=True silences an error that is long gone; every micro-batch's graph lives on needlessly."""
import torch
from torch import nn

torch.manual_seed(85)
model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
accum = 3
for i in range(9):
    x = torch.randn(8, 6)
    loss = nn.functional.mse_loss(model(x), x.mean(1, keepdim=True)) / accum
    loss.backward(retain_graph=True)  # expect: retained-graph
    if (i + 1) % accum == 0:
        optimizer.step()
        optimizer.zero_grad()
trained = list(model.parameters())
