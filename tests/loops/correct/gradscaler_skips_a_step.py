"""Correct: the scale starts too high, so the scaler refuses the first step; the scheduler waits for a real one."""
import torch
from torch import nn

torch.manual_seed(32)
model = nn.Linear(6, 2)
opt = torch.optim.Adam(model.parameters(), lr=1e-2)
sched = torch.optim.lr_scheduler.StepLR(opt, step_size=2, gamma=0.5)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-60)
ACC = 3
for window in range(5):
    for _ in range(ACC):
        x, y = torch.randn(4, 6), torch.randn(4, 2)
        loss = nn.functional.mse_loss(model(x) * 100, y * 100) / ACC
        scaler.scale(loss).backward()
    scaler.step(opt)
    before = scaler.get_scale()
    scaler.update()
    if scaler.get_scale() >= before:
        sched.step()
    opt.zero_grad()

trained = list(model.parameters())
