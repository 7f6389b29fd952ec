"""Broken: window, clip, scaler.step: the norm that is clipped is 2**14 times too large."""
import torch
from torch import nn
from torch.amp import GradScaler, autocast

torch.manual_seed(319)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
opt = torch.optim.AdamW(model.parameters(), 1e-3)
scaler = GradScaler("cpu", init_scale=2.0**14)
accum = 2
for i in range(8):
    x, y = torch.randn(6, 4), torch.randint(0, 2, (6,))
    with autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(model(x), y) / accum
    scaler.scale(loss).backward()
    if (i + 1) % accum == 0:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # expect: clip-scaled-gradient
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
trained = list(model.parameters())
