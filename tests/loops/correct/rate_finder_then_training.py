"""Correct: a learning-rate range test runs first, the weights are put back, then training starts with a new optimizer."""
import copy

import torch
from torch import nn

torch.manual_seed(510)
model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1))
data = torch.randn(12, 8, 3)
saved = copy.deepcopy(model.state_dict())


def range_test(start=1e-5, stop=1.0, n=6):
    opt = torch.optim.SGD(model.parameters(), lr=start)
    sched = torch.optim.lr_scheduler.ExponentialLR(opt, gamma=(stop / start) ** (1 / n))
    history = []
    for x in data[:n]:
        opt.zero_grad()
        loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
        loss.backward()
        opt.step()
        history.append((sched.get_last_lr()[0], loss.item()))
        sched.step()
    model.load_state_dict(saved)
    return min(history, key=lambda pair: pair[1])[0] / 10


lr = range_test()
opt = torch.optim.SGD(model.parameters(), lr=lr)
model.zero_grad()
for i, x in enumerate(data):
    (nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)) / 3).backward()
    if i % 3 == 2:
        opt.step()
        opt.zero_grad()
trained = list(model.parameters())
