"""Correct: sentence-level trainer: train_step gets a list of samples, sums losses, multiplies gradients by 1/sample_size."""
import itertools

import torch
from torch import nn


class Trainer:
    def __init__(self, model, criterion, lr=0.1):
        self.model, self.criterion = model, criterion
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        self.num_updates = 0

    def multiply_grads(self, c):
        for p in self.model.parameters():
            if p.grad is not None:
                p.grad.data.mul_(c)

    def train_step(self, samples):
        self.model.train()
        self.optimizer.zero_grad()
        sample_size = 0
        for sample in samples:
            loss, n = self.criterion(self.model, sample)
            loss.backward()
            sample_size += n
        self.multiply_grads(1.0 / sample_size)
        nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.num_updates += 1


def label_nll(model, sample):
    logits = model(sample["net_input"])
    target = sample["target"]
    return nn.functional.cross_entropy(logits, target, reduction="sum"), target.numel()


def grouped(it, n):
    it = iter(it)
    while batch := list(itertools.islice(it, n)):
        yield batch


torch.manual_seed(303)
trainer = Trainer(nn.Linear(6, 4), label_nll)
samples = [{"net_input": torch.randn(k, 6), "target": torch.randint(0, 4, (k,))} for k in (3, 7, 5, 2, 8, 4, 6)]
for epoch in range(2):
    for group in grouped(samples, 3):
        trainer.train_step(group)
trained = list(trainer.model.parameters())
