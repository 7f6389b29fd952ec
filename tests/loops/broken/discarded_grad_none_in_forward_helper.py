"""Broken: a well-meant helper clears gradients by hand before each forward, in the middle of the window (RAE#67)."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def forward_backward(model, batch, n):
    for p in model.parameters():
        p.grad = None  # expect: discarded-gradient
    x, y = batch
    loss = nn.functional.l1_loss(model(x), y) / n
    loss.backward()
    return loss.detach()


def fit(model, loader, n=3):
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        for i, batch in enumerate(loader):
            forward_backward(model, batch, n)
            if i % n == n - 1:
                opt.step()


torch.manual_seed(16)
model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))
fit(model, DataLoader(TensorDataset(torch.randn(36, 6), torch.randn(36, 2)), batch_size=4))
trained = list(model.parameters())
