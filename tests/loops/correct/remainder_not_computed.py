"""Correct: the remainder that would not fill a window is never computed: islice cuts the loader at a multiple of K."""
from itertools import islice

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(507)
loader = DataLoader(TensorDataset(torch.randn(44, 4), torch.randn(44, 1)), batch_size=4, shuffle=True)
model = nn.Linear(4, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
K = 3
usable = len(loader) - len(loader) % K
for epoch in range(2):
    for i, (x, y) in enumerate(islice(loader, usable)):
        loss = nn.functional.mse_loss(model(x), y) / K
        loss.backward()
        if (i + 1) % K == 0:
            opt.step()
            opt.zero_grad()
trained = list(model.parameters())
