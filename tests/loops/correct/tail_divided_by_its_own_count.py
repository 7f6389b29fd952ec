"""Correct: a short last window, divided by the micro-batches that it really holds."""
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(2)
K = 4

ds = TensorDataset(torch.randn(60, 5), torch.randint(0, 3, (60,)))
dl = DataLoader(ds, batch_size=6)  # 10 micro-batches: windows of 4, 4 and 2
model = nn.Linear(5, 3)
opt = optim.AdamW(model.parameters(), lr=1e-2)
ce = nn.CrossEntropyLoss()

full = len(dl) // K * K
rest = len(dl) - full

for _ in range(3):
    for step, (xb, yb) in enumerate(dl):
        in_window = K if step < full else rest
        (ce(model(xb), yb) / in_window).backward()
        if (step + 1) % K == 0 or (step + 1) == len(dl):
            opt.step()
            opt.zero_grad(set_to_none=True)

trained = [p for p in model.parameters()]
