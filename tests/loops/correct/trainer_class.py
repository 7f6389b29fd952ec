"""Correct: a home-made Trainer with state on self, a flag for the boundary, and hooks that nobody overrides."""
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


@dataclass
class Config:
    lr: float = 0.05
    epochs: int = 2
    batch_size: int = 4
    accumulate: int = 3
    clip: float = 1.0


class Trainer:
    def __init__(self, model, config):
        self.model = model
        self.cfg = config
        self.optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
        self.loss_fn = nn.HuberLoss()
        self.micro_step = 0
        self.sync = False

    def training_step(self, batch):
        x, y = batch
        return self.loss_fn(self.model(x), y)

    def on_before_step(self):
        nn.utils.clip_grad_value_(self.model.parameters(), self.cfg.clip)

    def optimizer_step(self):
        self.on_before_step()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.micro_step = 0

    def fit(self, loader):
        self.model.train()
        for _ in range(self.cfg.epochs):
            for batch in loader:
                loss = self.training_step(batch) * (1.0 / self.cfg.accumulate)
                loss.backward()
                self.micro_step += 1
                self.sync = self.micro_step == self.cfg.accumulate
                if self.sync:
                    self.optimizer_step()


torch.manual_seed(7)
cfg = Config()
dataset = TensorDataset(torch.randn(36, 5), torch.randn(36, 1))
trainer = Trainer(nn.Sequential(nn.Linear(5, 5), nn.SiLU(), nn.Linear(5, 1)), cfg)
trainer.fit(DataLoader(dataset, batch_size=cfg.batch_size))
trained = list(trainer.model.parameters())
