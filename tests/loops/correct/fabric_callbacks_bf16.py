"""Correct: a hand-written trainer on Fabric, bfloat16, limits, a flag `should_accum`, clip by value and a schedule per epoch."""
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class MyTrainer:
    def __init__(self, grad_accum_steps, max_epochs):
        self.fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
        self.grad_accum_steps, self.max_epochs = grad_accum_steps, max_epochs
        self.global_step = 0

    def fit(self, model, optimizer, scheduler, loader):
        loader = self.fabric.setup_dataloaders(loader)
        model, optimizer = self.fabric.setup(model, optimizer)
        for epoch in range(self.max_epochs):
            for batch_idx, (x, y) in enumerate(loader):
                should_accum = (batch_idx + 1) % self.grad_accum_steps != 0
                with self.fabric.no_backward_sync(model, enabled=should_accum):
                    loss = nn.functional.mse_loss(model(x), y) / self.grad_accum_steps
                    self.fabric.backward(loss)
                if should_accum:
                    continue
                self.fabric.clip_gradients(model, optimizer, clip_val=0.5)
                optimizer.step()
                optimizer.zero_grad()
                self.global_step += 1
            scheduler.step()
        return model


torch.manual_seed(605)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)
MyTrainer(3, 3).fit(model, optimizer, scheduler, DataLoader(TensorDataset(torch.randn(24, 4), torch.randn(24, 1)), batch_size=4))
trained = list(model.parameters())
