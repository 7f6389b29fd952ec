"""Correct: layer-wise learning rates; warm-up and decay chained by SequentialLR, and a plateau scheduler per epoch."""
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, ReduceLROnPlateau, SequentialLR

torch.manual_seed(19)
layers = torch.nn.ModuleList([torch.nn.Linear(6, 6) for _ in range(3)])
head = torch.nn.Linear(6, 1)
groups = [{"params": l.parameters(), "lr": 1e-3 * 0.8 ** (2 - i)} for i, l in enumerate(layers)]
opt = torch.optim.AdamW(groups + [{"params": head.parameters(), "lr": 2e-3}])
EPOCHS, PER_EPOCH, K = 3, 8, 2
total = EPOCHS * PER_EPOCH // K
warm = LinearLR(opt, start_factor=0.1, total_iters=3)
cos = CosineAnnealingLR(opt, T_max=total - 3)
sched = SequentialLR(opt, [warm, cos], milestones=[3])
plateau = ReduceLROnPlateau(opt, patience=1)
for epoch in range(EPOCHS):
    running = 0.0
    for b in range(PER_EPOCH):
        x = torch.randn(5, 6)
        h = x
        for l in layers:
            h = torch.relu(l(h))
        loss = torch.nn.functional.mse_loss(head(h), x[:, :1])
        running += loss.item()
        (loss / K).backward()
        if (b + 1) % K == 0:
            opt.step()
            sched.step()
            opt.zero_grad()
    plateau.step(running / PER_EPOCH)
trained = [*layers.parameters(), *head.parameters()]
