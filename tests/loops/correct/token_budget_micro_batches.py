"""Correct: micro-batches are packed under a token budget, so their number differs from window to window; sums over the window's tokens."""
import torch
from torch import nn


def pack(lengths, budget):
    bins = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for b in bins:
            if sum(lengths[j] for j in b) + lengths[i] <= budget:
                b.append(i)
                break
        else:
            bins.append([i])
    return bins


torch.manual_seed(402)
model = nn.Sequential(nn.Embedding(21, 8), nn.Linear(8, 21))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
windows = [[5, 9, 3, 12, 7], [4, 4, 4], [15, 2, 2, 8, 6, 3]]
for lengths in windows:
    docs = [torch.randint(0, 21, (n + 1,)) for n in lengths]
    num_tokens = sum(lengths)
    for micro in pack(lengths, budget=16):
        inputs = torch.cat([docs[i][:-1] for i in micro])
        targets = torch.cat([docs[i][1:] for i in micro])
        losses = nn.functional.cross_entropy(model(inputs), targets, reduction="none")
        (losses.sum() / num_tokens).backward()
    optimizer.step()
    optimizer.zero_grad()
trained = list(model.parameters())
