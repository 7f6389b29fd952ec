"""Broken: the helper divides the loss, and the loop divides it again: a sixteenth instead of a quarter."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(55)
ACC = 4


def loss_of(model, x, y):
    loss = nn.functional.cross_entropy(model(x), y, label_smoothing=0.1)
    return loss / ACC


model = nn.Sequential(nn.Linear(7, 14), nn.ReLU(), nn.Linear(14, 3))
opt = torch.optim.SGD(model.parameters(), lr=0.5)
loader = DataLoader(TensorDataset(torch.randn(64, 7), torch.randint(0, 3, (64,))), batch_size=8)
for i, (x, y) in enumerate(loader):
    loss = loss_of(model, x, y) / ACC
    loss.backward()  # expect: double-normalized-loss
    if (i + 1) % ACC == 0:
        opt.step()
        opt.zero_grad()

trained = list(model.parameters())
