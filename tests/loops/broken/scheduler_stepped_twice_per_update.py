"""Broken: warm-up helper and loop both step the scheduler; in the loop it is outside the boundary's `if`."""
import torch
from torch import nn


def finish(opt, sched):
    opt.step()
    opt.zero_grad()


torch.manual_seed(516)
m = nn.Linear(4, 4)
opt = torch.optim.AdamW(m.parameters(), lr=1e-2)
sched = torch.optim.lr_scheduler.MultiStepLR(opt, milestones=[2, 4])
count = 0
for x in torch.randn(9, 5, 4):
    (nn.functional.mse_loss(m(x), x) / 3).backward()
    count += 1
    if count % 3 == 0:
        finish(opt, sched)
    sched.step()  # expect: scheduler-per-micro-batch
trained = list(m.parameters())
