"""Correct: guards against wrong settings, and a run that would go on from a checkpoint if there were one."""
import os

import torch
from torch import nn

torch.manual_seed(0)


class Settings:
    def __init__(self, **given):
        self.accumulation = given.pop("accumulation", 2)
        self.epochs = given.pop("epochs", 2)
        self.checkpoint = given.pop("checkpoint", None)
        self.precision = given.pop("precision", "32")
        if given:
            raise TypeError(f"unknown settings: {sorted(given)}")
        if self.accumulation < 1:
            raise ValueError("accumulation must be positive")


class Recipe:
    def __init__(self, settings):
        if settings.precision not in ("32", "bf16"):
            raise NotImplementedError(settings.precision)
        self.settings = settings
        self.model = nn.Linear(6, 2)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.batches = [(torch.randn(4, 6), torch.randint(2, (4,))) for _ in range(6)]
        self.epochs_done = self.batches_done = 0

    def load(self):
        path = self.settings.checkpoint
        if path and os.path.exists(path):
            state = torch.load(path)
            self.epochs_done, self.batches_done = state["epochs"], state["batches"]

    def train(self):
        self.load()
        skipped_epochs, skipped_batches = self.epochs_done, self.batches_done
        for _ in range(self.settings.epochs):
            if skipped_epochs > 0:
                skipped_epochs -= 1
                continue
            for index, (x, y) in enumerate(self.batches):
                if skipped_batches > 0:
                    skipped_batches -= 1
                    continue
                loss = nn.functional.cross_entropy(self.model(x), y)
                if self.settings.accumulation > 1:
                    loss = loss / self.settings.accumulation
                loss.backward()
                if (index + 1) % self.settings.accumulation == 0:
                    self.optimizer.step()
                    self.optimizer.zero_grad()


recipe = Recipe(Settings(accumulation=3))
recipe.train()
trained = list(recipe.model.parameters())
