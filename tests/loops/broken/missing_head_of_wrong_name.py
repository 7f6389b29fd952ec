"""Broken: forward uses self.head, training resets self.fc and hands both to the optimizer; fc is a corpse."""
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Linear(6, 6)
        self.head = nn.Linear(6, 10)

    def forward(self, x):
        return self.head(torch.relu(self.features(x)))


torch.manual_seed(417)
net = Net()
net.fc = nn.Linear(6, 2)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(5):
    x, y = torch.randn(8, 6), torch.randint(0, 2, (8,))
    opt.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward()
    opt.step()  # expect: missing-gradient
trained = list(net.parameters())
