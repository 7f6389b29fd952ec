"""Correct: a queue is emptied, counters are bound in conditions, settings come from the environment."""
import os
import torch
from torch import nn
torch.manual_seed(0)
ACCUM = int(os.getenv("ACCUM", "3"))
net = nn.Linear(4, 1)
opt = torch.optim.SGD(net.parameters(), lr=float(os.environ.get("LR", 0.1)))
queue = [torch.randn(4, 4) for _ in range(9)]
n = 0
while queue and (x := queue.pop(0)) is not None:
    (net(x).pow(2).mean() / ACCUM).backward()
    if (n := n + 1) >= ACCUM:
        opt.step()
        opt.zero_grad()
        n = 0
trained = list(net.parameters())
