"""Broken: a base class divides, its subclass overrides training_step and forgets to."""
import torch
from torch import nn


class Base:
    gas = 3

    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def training_step(self, x):
        self.model.train()
        loss = nn.functional.mse_loss(self.model(x), x) / self.gas
        loss.backward()

    def fit(self, data):
        for step, x in enumerate(data):
            self.training_step(x)
            if (step + 1) % self.gas == 0:
                self.optimizer.step()
                self.optimizer.zero_grad()


class Robust(Base):
    def training_step(self, x):
        self.model.train()
        loss = nn.functional.smooth_l1_loss(self.model(x), x)
        loss.backward()  # expect: unnormalized-loss


torch.manual_seed(412)
trainer = Robust(nn.Linear(4, 4))
trainer.fit(torch.randn(9, 6, 4))
trained = list(trainer.model.parameters())
