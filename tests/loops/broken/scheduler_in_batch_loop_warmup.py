"""Broken: `if step < warmup: warmup.step()` counts micro-batches; warm-up is over before the second update."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(413)
loader = DataLoader(TensorDataset(torch.randn(64, 3), torch.randn(64, 1)), batch_size=4)
model = nn.Linear(3, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
warmup = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: min(1.0, (s + 1) / 10))
for i, (x, y) in enumerate(loader):
    (nn.functional.mse_loss(model(x), y) / 8).backward()
    warmup.step()  # expect: scheduler-per-micro-batch
    if (i + 1) % 8 == 0:
        opt.step()
        opt.zero_grad()
trained = list(model.parameters())
