"""Correct: an ensemble trained side by side, every member with its own optimizer and its own window of two."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(504)
members = [nn.Linear(5, 1) for _ in range(3)]
optimizers = [torch.optim.Adam(m.parameters(), lr=1e-2) for m in members]
loader = DataLoader(TensorDataset(torch.randn(32, 5), torch.randn(32, 1)), batch_size=8)
for epoch in range(2):
    for i, (x, y) in enumerate(loader):
        for m, o in zip(members, optimizers):
            keep = torch.randperm(len(x))[:6]
            loss = nn.functional.mse_loss(m(x[keep]), y[keep]) / 2
            loss.backward()
            if i % 2:
                o.step()
                o.zero_grad()
trained = [p for m in members for p in m.parameters()]
