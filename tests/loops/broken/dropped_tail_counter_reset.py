"""Broken: a counter that is reset with each epoch, and a zeroing with it; what it had counted is lost."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Fitter:
    def __init__(self, net, every):
        self.net, self.every = net, every
        self.opt = torch.optim.SGD(net.parameters(), lr=0.02)
        self.count = 0

    def on_epoch_start(self):
        self.count = 0
        self.net.zero_grad(set_to_none=False)

    def feed(self, x, y):
        nn.functional.mse_loss(self.net(x), y).mul(1.0 / self.every).backward()
        self.count += 1
        if self.count == self.every:
            self.opt.step()  # expect: dropped-tail
            self.net.zero_grad(set_to_none=False)
            self.count = 0


torch.manual_seed(19)
fitter = Fitter(nn.Linear(5, 1), every=3)
loader = DataLoader(TensorDataset(torch.randn(35, 5), torch.randn(35, 1)), batch_size=5)
for _ in range(2):
    fitter.on_epoch_start()
    for x, y in loader:
        fitter.feed(x, y)
trained = list(fitter.net.parameters())
