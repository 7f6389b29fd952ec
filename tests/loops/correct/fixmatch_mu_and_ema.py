"""Correct: FixMatch: labelled, weak and strong views in one interleaved forward; a masked mean; the average after the step."""
import copy

import torch
import torch.nn.functional as F
from torch import nn


def interleave(x, size):
    s = list(x.shape)
    return x.reshape([-1, size] + s[1:]).transpose(0, 1).reshape([-1] + s[1:])


def de_interleave(x, size):
    s = list(x.shape)
    return x.reshape([size, -1] + s[1:]).transpose(0, 1).reshape([-1] + s[1:])


class ModelEMA:
    def __init__(self, model, decay):
        self.ema, self.decay = copy.deepcopy(model).eval().requires_grad_(False), decay

    def update(self, model):
        with torch.no_grad():
            msd = model.state_dict()
            esd = self.ema.state_dict()
            for k in esd:
                esd[k].copy_(esd[k] * self.decay + (1.0 - self.decay) * msd[k].detach())


torch.manual_seed(44)
model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
ema = ModelEMA(model, 0.99)
opt = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, nesterov=True)
sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: max(0.0, 1 - s / 16))
mu, bs, threshold, steps = 2, 4, 0.4, 2
model.zero_grad()
for batch_idx in range(8):
    x, y = torch.randn(bs, 6), torch.randint(0, 3, (bs,))
    u_w = torch.randn(mu * bs, 6)
    u_s = u_w + 0.1 * torch.randn_like(u_w)
    logits = de_interleave(model(interleave(torch.cat((x, u_w, u_s)), 2 * mu + 1)), 2 * mu + 1)
    lx = F.cross_entropy(logits[:bs], y, reduction="mean")
    lu_w, lu_s = logits[bs:].chunk(2)
    max_probs, targets_u = torch.max(torch.softmax(lu_w.detach(), dim=-1), dim=-1)
    mask = max_probs.ge(threshold).float()
    lu = (F.cross_entropy(lu_s, targets_u, reduction="none") * mask).mean()
    loss = (lx + 1.0 * lu) / steps
    loss.backward()
    if batch_idx % steps == steps - 1:
        opt.step()
        sched.step()
        ema.update(model)
        model.zero_grad()
trained = list(model.parameters())
