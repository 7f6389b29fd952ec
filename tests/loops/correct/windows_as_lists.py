"""Correct: micro-batches gathered into lists first, so that a window always knows its own length."""
from itertools import islice

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def windows(loader, size):
    it = iter(loader)
    while chunk := list(islice(it, size)):
        yield chunk


torch.manual_seed(3)
data = TensorDataset(torch.randn(40, 4), torch.randn(40, 2))
loader = DataLoader(data, batch_size=4)
model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
history = []

for epoch in range(2):
    for chunk in windows(loader, 3):  # 10 micro-batches: 3, 3, 3, 1
        optimizer.zero_grad()
        window_loss = 0.0
        for x, t in chunk:
            loss = nn.functional.smooth_l1_loss(model(x), t) / len(chunk)
            loss.backward()
            window_loss += loss.detach()
        optimizer.step()
        history.append(float(window_loss))

trained = list(model.parameters())
