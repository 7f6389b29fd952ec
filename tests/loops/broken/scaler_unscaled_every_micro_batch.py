"""Broken: unscale_ and update belong to the boundary, not to each micro-batch (microsoft/Swin-Transformer#311's kind)."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Engine:
    def __init__(self, model, accum):
        self.model = model
        self.accum = accum
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)

    def backward(self, loss):
        self.scaler.scale(loss / self.accum).backward()
        self.scaler.unscale_(self.optimizer)  # expect: scaler-update-inside-window

    def epoch(self, loader):
        for n, (x, y) in enumerate(loader, 1):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = nn.functional.mse_loss(self.model(x), y)
            self.backward(loss)
            if n % self.accum == 0:
                self.scaler.step(self.optimizer)
                self.optimizer.zero_grad()
            self.scaler.update()  # expect: scaler-update-inside-window


torch.manual_seed(66)
engine = Engine(nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 2)), accum=2)
engine.epoch(DataLoader(TensorDataset(torch.randn(32, 5), torch.randn(32, 2)), batch_size=4))
trained = list(engine.model.parameters())
