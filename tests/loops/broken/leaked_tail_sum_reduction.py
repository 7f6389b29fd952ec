"""Broken: sums divided by the samples seen, so the scale is right, but an epoch's tail waits for the next epoch's window."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(21)
loader = DataLoader(TensorDataset(torch.randn(50, 6), torch.randn(50, 2)), batch_size=5)
net = nn.Linear(6, 2)
opt = torch.optim.Adam(net.parameters(), lr=1e-2)
seen = 0


def update():
    global seen
    for p in net.parameters():
        p.grad /= seen
    seen = 0
    opt.step()  # expect: leaked-tail
    opt.zero_grad()


for epoch in range(2):
    for n, (x, y) in enumerate(loader):
        nn.functional.mse_loss(net(x), y, reduction="sum").backward()
        seen += y.numel()
        if n % 4 == 3:
            update()
update()

trained = list(net.parameters())
