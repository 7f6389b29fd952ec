"""Correct: a linear decay that was built for the number of updates."""
import torch
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
batches = torch.randn(12, 8, 4)
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.1, total_iters=len(batches) // 4)
for i, x in enumerate(batches):
    (model(x).square().mean() / 4).backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
trained = list(model.parameters())
