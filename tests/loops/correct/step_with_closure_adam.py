"""Correct: an ordinary optimizer stepped with a closure that zeroes, accumulates and returns the loss."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(138)
model = nn.Linear(3, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
batches = list(DataLoader(TensorDataset(torch.randn(32, 3), torch.randn(32, 1)), batch_size=4))


def make_closure(group):
    def closure():
        optimizer.zero_grad()
        losses = []
        for x, y in group:
            loss = nn.functional.mse_loss(model(x), y) / len(group)
            loss.backward()
            losses.append(loss.detach())
        return sum(losses)

    return closure


for start in range(0, len(batches), 4):
    optimizer.step(make_closure(batches[start : start + 4]))
trained = list(model.parameters())
