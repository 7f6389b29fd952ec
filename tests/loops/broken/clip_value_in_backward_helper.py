"""Broken: the helper that runs backward also clips values, because once there was no accumulation (lingua PR#59)."""
import torch
from torch import nn


class Learner:
    clip = 0.1

    def __init__(self, model):
        self.model = model
        self.opt = torch.optim.RMSprop(model.parameters(), lr=1e-3)

    def backward(self, loss):
        loss.backward()
        nn.utils.clip_grad_value_(self.model.parameters(), self.clip)  # expect: clip-inside-window

    def learn(self, micro_batches):
        self.opt.zero_grad()
        for x, y in micro_batches:
            self.backward(nn.functional.mse_loss(self.model(x), y) / len(micro_batches))
        self.opt.step()


torch.manual_seed(60)
learner = Learner(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1)))
for _ in range(3):
    learner.learn([(torch.randn(4, 3), torch.randn(4, 1) * 3) for _ in range(3)])
trained = list(learner.model.parameters())
