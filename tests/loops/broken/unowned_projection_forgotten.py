"""Broken: the optimizer is given the backbone only; the projection head gets gradients that nobody uses."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(43)
backbone = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
head = nn.Linear(8, 3)
optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(48, 8), torch.randint(0, 3, (48,))), batch_size=8)

for epoch in range(2):
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(backbone(x)), y)
        loss.backward()  # expect: unowned-gradient
        optimizer.step()

trained = [*backbone.parameters(), *head.parameters()]
