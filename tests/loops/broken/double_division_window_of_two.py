"""Broken: windows of two, divided in the loss function and in the loop."""
import torch
torch.manual_seed(14)
ACCUM = 2
net = torch.nn.Linear(4, 3)
opt = torch.optim.SGD(net.parameters(), lr=0.1)


def criterion(out, y):
    return torch.nn.functional.cross_entropy(out, y) / ACCUM


for i in range(8):
    loss = criterion(net(torch.randn(4, 4)), torch.randint(3, (4,)))
    loss = loss / ACCUM
    loss.backward()  # expect[audit]: double-normalized-loss
    if (i + 1) % ACCUM == 0:
        opt.step()
        opt.zero_grad()
trained = list(net.parameters())
