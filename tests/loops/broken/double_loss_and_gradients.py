"""Broken: losses divided by the window, and the gradients divided by it once more before the step (ms-swift PR#10116)."""
import torch
from torch import nn


class Accumulator:
    def __init__(self, params, opt, n):
        self.params, self.opt, self.n, self.i = list(params), opt, n, 0

    def __call__(self, loss):
        (loss / self.n).backward()  # expect: double-normalized-loss
        self.i += 1
        if self.i % self.n == 0:
            with torch.no_grad():
                for p in self.params:
                    p.grad.div_(self.n)
            self.opt.step()
            self.opt.zero_grad()


torch.manual_seed(56)
net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3))
acc = Accumulator(net.parameters(), torch.optim.SGD(net.parameters(), lr=1.0), n=3)
for x in torch.randn(12, 4, 3):
    acc(nn.functional.mse_loss(net(x), x.flip(-1)))
trained = list(net.parameters())
