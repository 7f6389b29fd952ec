"""Broken: the loss is divided by the batch size's constant, not by the window's: 8 where the window holds 2."""
import torch
from torch import nn

torch.manual_seed(50)
BATCH_SIZE = 8
ACCUM_EVERY = 2
net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
opt = torch.optim.SGD(net.parameters(), lr=0.3)
X = torch.randn(10 * BATCH_SIZE, 3)

for epoch in range(2):
    for n, xb in enumerate(X.split(BATCH_SIZE), 1):
        loss = (net(xb) - xb.mean(1, keepdim=True)).pow(2).mean() / BATCH_SIZE
        loss.backward()  # expect: uneven-window-scale
        if n % ACCUM_EVERY == 0:
            opt.step()
            opt.zero_grad()

trained = list(net.parameters())
