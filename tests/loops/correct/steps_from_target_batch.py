"""Correct: accumulation steps computed from a target batch size, in a class that wraps model, data and optimizer."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Experiment:
    NBS = 64

    def __init__(self, batch_size):
        self.model = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))
        self.loader = DataLoader(TensorDataset(torch.randn(256, 4), torch.randn(256, 1)), batch_size=batch_size)
        self.accumulate = max(round(self.NBS / batch_size), 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.937, nesterov=True)
        self.last_opt_step = -1

    def optimizer_step(self):
        nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=10.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def train(self, epochs):
        nb = len(self.loader)
        self.optimizer.zero_grad()
        for epoch in range(epochs):
            for i, (x, y) in enumerate(self.loader):
                ni = i + nb * epoch
                loss = nn.functional.mse_loss(self.model(x), y)
                (loss / self.accumulate).backward()
                if ni - self.last_opt_step >= self.accumulate:
                    self.optimizer_step()
                    self.last_opt_step = ni


torch.manual_seed(508)
experiment = Experiment(batch_size=16)
experiment.train(epochs=2)
trained = list(experiment.model.parameters())
