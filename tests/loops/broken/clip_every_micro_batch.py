"""Broken: the norm is clipped after each backward of the window, so early micro-batches are shrunk again and again (HF-T#986)."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(59)
k = 4
dl = DataLoader(TensorDataset(torch.randn(64, 5), torch.randn(64, 1) * 5), batch_size=4)
model = nn.Linear(5, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
for i, (x, y) in enumerate(dl):
    loss = nn.functional.mse_loss(model(x), y) / k
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # expect: clip-inside-window
    if (i + 1) % k == 0:
        opt.step()
        opt.zero_grad()
trained = list(model.parameters())
