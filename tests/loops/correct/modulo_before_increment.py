"""Correct: `i % k == k - 1`, in-place division of the loss, zeroing at the start of a window instead of its end."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(10)
k = 5
loader = DataLoader(TensorDataset(torch.rand(60, 9), torch.rand(60)), batch_size=4)
model = nn.Sequential(nn.Linear(9, 9), nn.Sigmoid(), nn.Linear(9, 1), nn.Flatten(0))
optim = torch.optim.Adam(model.parameters(), lr=0.01)

for ep in range(2):
    for i, (x, y) in enumerate(loader):
        if i % k == 0:
            model.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        loss /= k
        loss.backward()
        if i % k == k - 1:
            optim.step()

trained = list(model.parameters())
