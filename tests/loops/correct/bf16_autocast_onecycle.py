"""Correct: bfloat16 autocast, OneCycleLR counted in updates with the tail included."""
import math

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(33)
EPOCHS, ACCUM = 3, 4
train_ds = TensorDataset(torch.randn(56, 12), torch.randint(0, 2, (56,)))
train_dl = DataLoader(train_ds, batch_size=4, shuffle=True, drop_last=True)  # 14: windows of 4, 4, 4, 2
net = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 2))
opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
updates_per_epoch = math.ceil(len(train_dl) / ACCUM)
sched = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=1e-2, total_steps=EPOCHS * updates_per_epoch)

for epoch in range(EPOCHS):
    net.train()
    for i, (x, y) in enumerate(train_dl):
        window_start = i - i % ACCUM
        window_len = min(ACCUM, len(train_dl) - window_start)
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(net(x), y)
        (loss / window_len).backward()
        if i + 1 == window_start + window_len:
            opt.step()
            sched.step()
            opt.zero_grad()

trained = list(net.parameters())
