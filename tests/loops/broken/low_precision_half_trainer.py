"""Broken: .half() for the whole network, sixteen micro-batches added in float16 inside a method of a trainer."""
import torch
from torch import nn


class HalfTrainer:
    def __init__(self, network, lr, grad_acc):
        self.network = network.half()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=lr)
        self.grad_acc = grad_acc
        self.iteration = 0

    def feed(self, x, y):
        loss = (self.network(x.half()) - y.half()).abs().mean()
        loss.mul(1 / self.grad_acc).backward()  # expect: low-precision-accumulation
        self.iteration += 1
        if self.iteration % self.grad_acc == 0:
            self.optimizer.step()
            self.network.zero_grad()


torch.manual_seed(70)
trainer = HalfTrainer(nn.Linear(6, 2), lr=0.05, grad_acc=16)
for _ in range(32):
    trainer.feed(torch.randn(4, 6), torch.randn(4, 2))
trained = list(trainer.network.parameters())
