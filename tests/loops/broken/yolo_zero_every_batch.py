"""Broken: zero_grad at the top of every batch throws away all but the last micro-batch of a nominal batch."""
import math

import torch
from torch import nn


def compute_loss(pred, targets):
    lbox = (1.0 - torch.exp(-(pred[:, :4] - targets[:, :4]).square())).mean() * 0.05
    lobj = nn.functional.binary_cross_entropy_with_logits(pred[:, 4], targets[:, 4])
    bs = pred.shape[0]
    return (lbox + lobj) * bs, torch.stack((lbox, lobj)).detach()


def interp(x, xp, fp):
    return fp[1] if x >= xp[1] else fp[0] + (fp[1] - fp[0]) * (x - xp[0]) / (xp[1] - xp[0])


torch.manual_seed(10)
model = nn.Sequential(nn.Linear(6, 12), nn.SiLU(), nn.Linear(12, 5))
optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, nesterov=True)
nbs, batch_size, epochs, nb, nw = 16, 4, 3, 7, 4
accumulate = max(round(nbs / batch_size), 1)
lf = lambda x: (1 - math.cos(x * math.pi / epochs)) / 2 * (0.1 - 1) + 1
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda=lf)
last_opt_step = -1
optimizer.zero_grad()
for epoch in range(epochs):
    model.train()
    for i in range(nb):
        ni = i + nb * epoch
        if ni <= nw:
            xi = [0, nw]
            accumulate = max(1, round(interp(ni, xi, [1, nbs / batch_size])))
            for j, x in enumerate(optimizer.param_groups):
                x["lr"] = interp(ni, xi, [0.0, x["initial_lr"] * lf(epoch)])
        optimizer.zero_grad()  # expect: discarded-gradient
        imgs, targets = torch.randn(batch_size, 6), torch.rand(batch_size, 5)
        loss, loss_items = compute_loss(model(imgs), targets)
        loss.backward()
        if ni - last_opt_step >= accumulate or ni + 1 == nb * epochs:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0)
            optimizer.step()
            optimizer.zero_grad()
            last_opt_step = ni
    scheduler.step()
trained = list(model.parameters())
