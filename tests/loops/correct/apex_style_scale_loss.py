"""Correct: `with amp.scale_loss(loss, optimizer) as scaled_loss`, the old wrapper's interface over a fixed scale."""
import contextlib

import torch
from torch import nn


class amp:
    SCALE = 64.0

    @staticmethod
    @contextlib.contextmanager
    def scale_loss(loss, optimizer, delay_unscale=False):
        yield loss * amp.SCALE
        if not delay_unscale:
            for p in amp.master_params(optimizer):
                p.grad.mul_(1.0 / amp.SCALE)

    @staticmethod
    def master_params(optimizer):
        for group in optimizer.param_groups:
            yield from group["params"]


torch.manual_seed(34)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
gradient_accumulation_steps = 2
for step in range(8):
    xb = torch.randn(6, 4)
    loss = nn.functional.mse_loss(model(xb), xb)
    if gradient_accumulation_steps > 1:
        loss = loss / gradient_accumulation_steps
    is_last = (step + 1) % gradient_accumulation_steps == 0
    with amp.scale_loss(loss, optimizer, delay_unscale=not is_last) as scaled_loss:
        scaled_loss.backward()
    if is_last:
        torch.nn.utils.clip_grad_norm_(amp.master_params(optimizer), 1.0)
        optimizer.step()
        model.zero_grad()

trained = list(model.parameters())
