"""Broken: the inner optimizer of each task never zeroes; every inner step repeats all gradients before it."""
import copy

import torch
from torch import nn

torch.manual_seed(27)
meta = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
meta_opt = torch.optim.Adam(meta.parameters(), lr=0.01)
tasks_per_update = 3
for it in range(4):
    meta_opt.zero_grad()
    for _ in range(tasks_per_update):
        phase, amplitude = torch.rand(2) * 3
        learner = copy.deepcopy(meta)
        inner = torch.optim.SGD(learner.parameters(), lr=0.02)
        for _ in range(5):
            x = torch.rand(10, 1) * 10 - 5
            loss = (learner(x) - amplitude * torch.sin(x + phase)).pow(2).mean()
            loss.backward()
            inner.step()  # expect: stale-gradient
        with torch.no_grad():
            for p, q in zip(meta.parameters(), learner.parameters()):
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
                p.grad.add_((p - q) / tasks_per_update)
    meta_opt.step()
trained = list(meta.parameters())
