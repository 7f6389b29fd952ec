"""Correct: Lightning Fabric, no_backward_sync while accumulating, the loss divided by hand, fabric clips."""
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(120)
fabric = Fabric(accelerator="cpu", devices=1)
fabric.launch()
model = nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
model, optimizer = fabric.setup(model, optimizer)
dataloader = fabric.setup_dataloaders(DataLoader(TensorDataset(torch.randn(48, 5), torch.randn(48, 1)), batch_size=4))
accumulate = 4

for epoch in range(2):
    for iteration, (x, y) in enumerate(dataloader):
        is_accumulating = (iteration + 1) % accumulate != 0
        with fabric.no_backward_sync(model, enabled=is_accumulating):
            loss = nn.functional.mse_loss(model(x), y)
            fabric.backward(loss / accumulate)
        if not is_accumulating:
            fabric.clip_gradients(model, optimizer, max_norm=1.0)
            optimizer.step()
            optimizer.zero_grad()

trained = list(model.module.parameters())
