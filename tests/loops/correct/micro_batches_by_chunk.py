"""Correct: a big batch arrives and is cut with chunk(); a ragged last chunk is weighted by its samples."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.l1 = nn.Linear(6, 6)
        self.l2 = nn.Linear(6, 3)

    def forward(self, x):
        return self.l2(torch.relu(self.l1(x)))


def step_on(batch, net, opt, max_rows=6):
    x, y = batch
    opt.zero_grad()
    for xs, ys in zip(x.split(max_rows), y.split(max_rows)):
        share = xs.shape[0] / x.shape[0]
        loss = nn.functional.cross_entropy(net(xs), ys) * share
        loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    opt.step()


torch.manual_seed(29)
net = Net()
opt = torch.optim.SGD(net.parameters(), lr=0.1, nesterov=True, momentum=0.9)
big = DataLoader(TensorDataset(torch.randn(48, 6), torch.randint(0, 3, (48,))), batch_size=16)
for epoch in range(2):
    for batch in big:
        step_on(batch, net, opt)
trained = list(net.parameters())
