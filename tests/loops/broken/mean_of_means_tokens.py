"""Broken: token means over micro-batches of very unlike token counts, weighted alike (HF-T PR#34191)."""
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(51)
IGNORE = -100
model = nn.Sequential(nn.Embedding(13, 8), nn.Linear(8, 13))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
gradient_accumulation_steps = 4


def batch_of(*lengths):
    ids = torch.randint(0, 13, (len(lengths), max(lengths)))
    labels = ids.clone()
    for row, n in zip(labels, lengths):
        row[n:] = IGNORE
    return ids, labels


batches = [batch_of(2, 3), batch_of(12, 9), batch_of(1, 4), batch_of(7, 7)] * 2
for i, (ids, labels) in enumerate(batches):
    loss = F.cross_entropy(model(ids).transpose(1, 2), labels, ignore_index=IGNORE)
    loss = loss / gradient_accumulation_steps
    loss.backward()  # expect[audit]: mean-of-means
    if (i + 1) % gradient_accumulation_steps == 0:
        optimizer.step()
        optimizer.zero_grad()

trained = list(model.parameters())
