"""Broken: Accelerate over 10 batches with windows of 4, epoch after epoch: the window of 2 is divided by 4, in a class."""
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Runner:
    def __init__(self):
        self.acc = Accelerator(gradient_accumulation_steps=4, cpu=True)
        net = nn.Linear(4, 2)
        self.net, self.opt, self.dl = self.acc.prepare(
            net, torch.optim.Adam(net.parameters()), DataLoader(TensorDataset(torch.randn(40, 4), torch.randint(0, 2, (40,))), batch_size=4)
        )

    def step(self, x, y):
        with self.acc.accumulate(self.net):
            loss = nn.functional.cross_entropy(self.net(x), y)
            self.acc.backward(loss)  # expect: uneven-window-scale
            self.opt.step()
            self.opt.zero_grad()

    def run(self, epochs):
        for _ in range(epochs):
            for x, y in self.dl:
                self.step(x, y)


torch.manual_seed(608)
r = Runner()
r.run(2)
trained = list(r.acc.unwrap_model(r.net).parameters())
