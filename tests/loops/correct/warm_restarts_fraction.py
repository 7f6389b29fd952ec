"""Correct: cosine warm restarts fed with a fractional epoch after each update; zero_grad through the model."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(307)
dl = DataLoader(TensorDataset(torch.randn(64, 4), torch.randint(0, 2, (64,))), batch_size=8, shuffle=True)
model = nn.Linear(4, 2)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
sched = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=2)
ITERS, ACC = len(dl), 4
for epoch in range(3):
    for i, (x, y) in enumerate(dl):
        nn.functional.cross_entropy(model(x), y).div(ACC).backward()
        if (i + 1) % ACC:
            continue
        opt.step()
        sched.step(epoch + (i + 1) / ITERS)
        model.zero_grad()
trained = list(model.parameters())
