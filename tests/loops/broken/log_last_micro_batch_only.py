"""Broken (log only): what is reported for the update is its last micro-batch's loss, divided (nanoGPT#168, PL#2569)."""
import torch
import torch.nn as nn


class History:
    def __init__(self):
        self.rows = []

    def log(self, step, loss):
        self.rows.append({"step": step, "loss": loss})


torch.manual_seed(54)
history = History()
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
n_accum = 8
for step in range(3):
    for micro in range(n_accum):
        x = torch.randn(4, 4)
        loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
        loss = loss / n_accum
        loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    history.log(step, loss.item())  # expect[lint]: loss-log-scale

trained = list(model.parameters())
