"""Correct: Fabric with gradledger's exact windows, which say when to step and divide by themselves; the tail is short."""
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradledger.integrations.fabric import ExactWindows

torch.manual_seed(231)
fabric = Fabric(accelerator="cpu", devices=1)
model = nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 1))
model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.05))
loader = fabric.setup_dataloaders(DataLoader(TensorDataset(torch.randn(38, 5), torch.randn(38, 1)), batch_size=4))
batches = ExactWindows(fabric, loader, steps=4)

for epoch in range(2):
    for x, y in batches:
        with fabric.no_backward_sync(model, enabled=batches.is_accumulating):
            batches.backward(nn.functional.mse_loss(model(x), y))
        if not batches.is_accumulating:
            fabric.clip_gradients(model, optimizer, max_norm=1.0)
            optimizer.step()
            optimizer.zero_grad()

trained = list(model.module.parameters())
