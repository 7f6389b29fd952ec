"""Correct: an update whose norm explodes is given up on purpose, now and then; its gradients are zeroed unused."""
import torch
from torch import nn

torch.manual_seed(309)
model = nn.Linear(5, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.01)
skipped = 0
for k in range(8):
    for _ in range(2):
        x = torch.randn(6, 5) * (50.0 if k == 4 else 1.0)
        (nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)) / 2).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    if norm < 100:
        opt.step()
    else:
        skipped += 1
    opt.zero_grad()
assert skipped == 1
trained = list(model.parameters())
