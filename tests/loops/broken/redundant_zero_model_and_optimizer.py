"""Broken (cost only): the model is zeroed, then its optimizer zeroes the very same gradients."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def reset(model, optimizer):
    model.zero_grad()
    optimizer.zero_grad()  # expect: redundant-zero


torch.manual_seed(48)
model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
optimizer = torch.optim.Adam(model.parameters())
loader = DataLoader(TensorDataset(torch.randn(32, 5), torch.randint(0, 2, (32,))), batch_size=4)
reset(model, optimizer)
for i, (x, y) in enumerate(loader):
    (nn.functional.cross_entropy(model(x), y) / 4).backward()
    if i % 4 == 3:
        optimizer.step()
        reset(model, optimizer)
trained = list(model.parameters())
