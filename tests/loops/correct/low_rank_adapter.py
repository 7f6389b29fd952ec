"""Correct: low-rank adapters on a frozen layer; a zero-initialised factor has zero gradients at first, which is not missing."""
import math

import torch
from torch import nn


class LoRALinear(nn.Module):
    def __init__(self, base, r=2, alpha=4):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base.in_features) / math.sqrt(r))
        self.B = nn.Parameter(torch.zeros(base.out_features, r))
        self.scale = alpha / r

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.A.T @ self.B.T)


torch.manual_seed(139)
model = nn.Sequential(LoRALinear(nn.Linear(6, 8)), nn.GELU(), LoRALinear(nn.Linear(8, 2)))
trainable = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trainable, lr=1e-2)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
micro, accum = 0, 3
for x in torch.randn(12, 4, 6):
    target = (x.mean(1) > 0).long()
    loss = nn.functional.cross_entropy(model(x), target) / accum
    loss.backward()
    micro += 1
    if micro < accum:
        continue
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad(set_to_none=True)
    micro = 0
trained = trainable
