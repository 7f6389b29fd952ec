"""Correct: the float16 code path with the scaler switched off: scale() is the identity, clipping needs no unscale_."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(502)
use_amp = False
model = nn.Linear(6, 3)
opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
scaler = torch.amp.GradScaler("cpu", enabled=use_amp)
loader = DataLoader(TensorDataset(torch.randn(32, 6), torch.randint(0, 3, (32,))), batch_size=4)
for i, (x, y) in enumerate(loader):
    with torch.autocast("cpu", dtype=torch.float16, enabled=use_amp):
        loss = nn.functional.cross_entropy(model(x), y) / 2
    scaler.scale(loss).backward()
    if i % 2 == 1:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
trained = list(model.parameters())
