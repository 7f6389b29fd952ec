"""Broken: one callback zeroes before every backward pass, another one steps with every third."""
import torch
from torch import nn
torch.manual_seed(0)
class Callback:
    def __call__(self, event, trainer):
        handler = getattr(self, event, None)
        if handler is not None:
            handler(trainer)
class Zero(Callback):
    def before_backward(self, trainer):
        trainer.optimizer.zero_grad()  # expect: discarded-gradient
class Accumulate(Callback):
    def __init__(self, n):
        self.n, self.count = n, 0
    def after_backward(self, trainer):
        self.count += 1
        if self.count % self.n == 0:
            trainer.optimizer.step()
class Runner:
    def __init__(self, model, data, n, callbacks):
        self.model, self.data, self.n, self.callbacks = model, data, n, callbacks
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    def fire(self, event):
        for cb in self.callbacks:
            cb(event, self)
    def fit(self, epochs):
        for _ in range(epochs):
            for x in self.data:
                self.fire("before_backward")
                loss = self.model(x).square().mean()
                (loss / self.n).backward()
                self.fire("after_backward")
model = nn.Linear(4, 1)
Runner(model, [torch.randn(4, 4) for _ in range(8)], 4, [Zero(), Accumulate(4)]).fit(2)
trained = list(model.parameters())
