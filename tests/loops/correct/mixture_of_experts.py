"""Correct: a router sends tokens to one of three experts; an expert may sit out a micro-batch, not a whole run."""
import torch
from torch import nn


class MoE(nn.Module):
    def __init__(self, d, n):
        super().__init__()
        self.gate = nn.Linear(d, n)
        self.experts = nn.ModuleList(nn.Linear(d, d) for _ in range(n))

    def forward(self, x):
        logits = self.gate(x)
        probs = logits.softmax(-1)
        choice = probs.argmax(-1)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            rows = (choice == e).nonzero().squeeze(-1)
            if len(rows):
                out = out.index_add(0, rows, probs[rows, e, None] * expert(x[rows]))
        return out, logits.logsumexp(-1).square().mean()


torch.manual_seed(140)
layer = MoE(4, 3)
opt = torch.optim.SGD(layer.parameters(), lr=0.1)
windows, n = 6, 2
for _ in range(windows):
    for _ in range(n):
        x = torch.randn(6, 4)
        y, z_loss = layer(x)
        loss = nn.functional.mse_loss(y, -x) + 0.01 * z_loss
        (loss / n).backward()
    opt.step()
    opt.zero_grad()
trained = list(layer.parameters())
