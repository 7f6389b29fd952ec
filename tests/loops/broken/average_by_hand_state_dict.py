"""Broken: a hand-written EMA advances with every micro-batch although weights change once in four."""
import copy
import torch
from torch import nn
import torch.nn.functional as F
torch.manual_seed(6)


class EMA:
    def __init__(self, model, decay):
        self.decay = decay
        self.shadow = {k: v.clone() for k, v in model.state_dict().items()}

    def update(self, model):
        with torch.no_grad():
            for k, v in model.state_dict().items():
                self.shadow[k].mul_(self.decay).add_(v, alpha=1 - self.decay)  # expect[audit]: average-per-micro-batch


model = nn.Sequential(nn.Linear(9, 24), nn.SiLU(), nn.Linear(24, 8))
ema = EMA(model, 0.99)
opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
K = 4
for step in range(16):
    x, t, eps = torch.randn(6, 8), torch.rand(6, 1), torch.randn(6, 8)
    loss = F.mse_loss(model(torch.cat([x * (1 - t) + eps * t, t], 1)), eps) / K
    loss.backward()
    if (step + 1) % K == 0:
        opt.step()
        opt.zero_grad()
    ema.update(model)
trained = list(model.parameters())
