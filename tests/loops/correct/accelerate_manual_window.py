"""Correct: Accelerate with a window of its own: no_sync by hand, its K left at 1, losses divided by the user."""
import contextlib

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(408)
accelerator = Accelerator(cpu=True)
model = nn.Linear(5, 2)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(32, 5), torch.randint(0, 2, (32,))), batch_size=4)
model, opt, loader = accelerator.prepare(model, opt, loader)
n = 4
for i, (x, y) in enumerate(loader):
    last = (i + 1) % n == 0
    with contextlib.nullcontext() if last else accelerator.no_sync(model):
        accelerator.backward(nn.functional.cross_entropy(model(x), y) / n)
    if last:
        opt.step()
        opt.zero_grad()
trained = list(accelerator.unwrap_model(model).parameters())
