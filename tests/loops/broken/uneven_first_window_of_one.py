"""Broken: `i % k == 0` steps after the very first micro-batch, so one window holds 1 and is divided by 4."""
import torch
from torch import nn

torch.manual_seed(25)
k = 4
model = nn.Linear(5, 2)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
data = [(torch.randn(4, 5), torch.randint(0, 2, (4,))) for _ in range(9)]

for i, (x, y) in enumerate(data):
    loss = nn.functional.cross_entropy(model(x), y) / k
    loss.backward()  # expect: uneven-window-scale
    if i % k == 0:
        opt.step()
        opt.zero_grad()

trained = list(model.parameters())
