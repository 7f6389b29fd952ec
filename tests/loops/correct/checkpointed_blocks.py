"""Correct: activation checkpointing; each block's forward runs again inside backward."""
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Stack(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Dropout(0.1), nn.GELU()) for _ in range(depth))
        self.out = nn.Linear(width, 2)

    def forward(self, x):
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=False)
        return self.out(x)


torch.manual_seed(107)
model = Stack(8, 3)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
micro_batches_per_step = 4
optimizer.zero_grad()
for n in range(1, 13):
    x = torch.randn(4, 8)
    loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
    (loss / micro_batches_per_step).backward()
    if n % micro_batches_per_step == 0:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
trained = list(model.parameters())
