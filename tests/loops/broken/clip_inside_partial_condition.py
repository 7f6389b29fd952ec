"""Broken: clipping is guarded by a condition, but by the wrong one: every second micro-batch of a window of four."""
import torch
from torch import nn

torch.manual_seed(414)
model = nn.Linear(5, 5)
opt = torch.optim.Adam(model.parameters(), lr=1e-3)
for i, x in enumerate(torch.randn(12, 4, 5)):
    (nn.functional.mse_loss(model(x), 2 * x) / 4).backward()
    if i % 2 == 1:
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)  # expect: clip-inside-window
    if i % 4 == 3:
        opt.step()
        opt.zero_grad()
trained = list(model.parameters())
