"""Broken: the short last window is stepped, which is right, but divided by the full 4: its update is half as large."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(24)
accumulation_steps = 4
trainloader = DataLoader(TensorDataset(torch.randn(40, 7), torch.randn(40, 1)), batch_size=4)
model = nn.Sequential(nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for epoch in range(2):
    for i, (x, y) in enumerate(trainloader):
        loss = nn.functional.mse_loss(model(x), y)
        loss = loss / accumulation_steps
        loss.backward()  # expect: uneven-window-scale
        if (i + 1) % accumulation_steps == 0 or (i + 1) == len(trainloader):
            optimizer.step()
            optimizer.zero_grad()

trained = list(model.parameters())
