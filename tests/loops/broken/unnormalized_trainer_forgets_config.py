"""Broken: the number of accumulation steps is configured, used for the boundary and forgotten in the loss (trl#2617)."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class MiniTrainer:
    def __init__(self, model, train_dataset, *, gradient_accumulation_steps=1, lr=1e-2):
        self.model = model
        self.gas = gradient_accumulation_steps
        self.loader = DataLoader(train_dataset, batch_size=3)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
        self.state = {"global_step": 0}

    def compute_loss(self, batch):
        x, y = batch
        return nn.functional.binary_cross_entropy_with_logits(self.model(x), y)

    def train(self, epochs):
        for _ in range(epochs):
            for step, batch in enumerate(self.loader):
                loss = self.compute_loss(batch)
                loss.backward()  # expect: unnormalized-loss
                if (step + 1) % self.gas == 0:
                    self._inner_step()

    def _inner_step(self):
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state["global_step"] += 1


torch.manual_seed(49)
trainer = MiniTrainer(nn.Linear(4, 1), TensorDataset(torch.randn(36, 4), torch.rand(36, 1).round()), gradient_accumulation_steps=6)
trainer.train(epochs=2)
trained = list(trainer.model.parameters())
