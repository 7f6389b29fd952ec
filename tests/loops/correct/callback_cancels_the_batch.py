"""Correct: a callback raises to leave the step out until enough samples have been seen."""
import torch
from torch import nn
torch.manual_seed(0)
class CancelBatchException(Exception):
    pass
class GradAccum:
    order = 10
    def __init__(self, n_acc=8):
        self.n_acc = n_acc
    def before_fit(self, learn):
        self.count = 0
    def after_loss(self, learn):
        learn.loss_grad = learn.loss_grad / (self.n_acc / len(learn.xb))
    def before_step(self, learn):
        self.count += len(learn.xb)
        if self.count < self.n_acc:
            raise CancelBatchException()
        self.count = 0
class Learner:
    def __init__(self, model, data, opt, cbs):
        self.model, self.data, self.opt = model, data, opt
        self.cbs = sorted(cbs, key=lambda cb: cb.order)
    def __call__(self, name):
        for cb in self.cbs:
            f = getattr(cb, name, None)
            if f:
                f(self)
    def one_batch(self, batch):
        try:
            self.xb, self.yb = batch
            self.loss_grad = nn.functional.mse_loss(self.model(self.xb), self.yb)
            self("after_loss")
            self.loss_grad.backward()
            self("before_step")
            self.opt.step()
            self.opt.zero_grad()
        except CancelBatchException:
            pass
    def fit(self, n):
        self("before_fit")
        for _ in range(n):
            for batch in self.data:
                self.one_batch(batch)
model = nn.Linear(3, 1)
data = [(torch.randn(4, 3), torch.randn(4, 1)) for _ in range(8)]
Learner(model, data, torch.optim.SGD(model.parameters(), lr=0.1), [GradAccum(8)]).fit(2)
trained = list(model.parameters())
