"""Broken: the documented `is_accumulating = i % 4 != 0` closes the first window after one batch, and nothing is divided."""
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

fabric = Fabric(accelerator="cpu", devices=1)
torch.manual_seed(211)
model, optimizer = nn.Linear(5, 1), None
optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
model, optimizer = fabric.setup(model, optimizer)
dataloader = fabric.setup_dataloaders(DataLoader(TensorDataset(torch.randn(36, 5), torch.randn(36, 1)), batch_size=4))

for iteration, (x, y) in enumerate(dataloader):
    is_accumulating = iteration % 4 != 0
    with fabric.no_backward_sync(model, enabled=is_accumulating):
        output = model(x)
        loss = nn.functional.mse_loss(output, y)
        fabric.backward(loss)  # expect: unnormalized-loss
    if not is_accumulating:
        optimizer.step()
        optimizer.zero_grad()

trained = list(model.module.parameters())
