"""Broken: zero_grad at the top of every iteration, step every fourth: only the last micro-batch trains (starVLA#395)."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(14)
gradient_accumulation_steps = 4
train_dl = DataLoader(TensorDataset(torch.randn(64, 5), torch.randn(64, 1)), batch_size=4)
model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for epoch in range(2):
    for step, (x, y) in enumerate(train_dl):
        optimizer.zero_grad()  # expect: discarded-gradient
        loss = nn.functional.mse_loss(model(x), y)
        loss = loss / gradient_accumulation_steps
        loss.backward()
        if (step + 1) % gradient_accumulation_steps == 0:
            optimizer.step()

trained = list(model.parameters())
