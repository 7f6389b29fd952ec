"""Broken: a linear decay built for the micro-batches, that advances with each update."""
import torch
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
batches = torch.randn(12, 8, 4)
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, len(batches))  # expect: scheduler-horizon
for i, x in enumerate(batches):
    (model(x).square().mean() / 4).backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
trained = list(model.parameters())
