"""Broken: the loss is scaled, but the plain optimizer steps: 1024 times the gradient goes into SGD."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(67)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
model = nn.Linear(6, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
loader = DataLoader(TensorDataset(torch.randn(40, 6), torch.randn(40, 1)), batch_size=10)

for epoch in range(2):
    for x, y in loader:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            pred = model(x)
            loss = nn.functional.mse_loss(pred, y)
        scaler.scale(loss).backward()
        optimizer.step()  # expect: step-without-scaler

trained = list(model.parameters())
